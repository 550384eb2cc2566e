"""Valid folders that cases start from, each made once a process."""

import functools
import pathlib
from collections.abc import Callable

import jax

from tests.fuzz.cases import Case

ROOT = pathlib.Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "oracles" / "goldens"


def model(folder: pathlib.Path, max_shard_bytes: int = 10**9) -> None:
  """A transformers folder of a tiny model with a chat template; it knows `tests.cli.tiny_model.WORDS` and <unk>."""
  from dpojax.interop.files import write_model_folder
  from dpojax.interop.tokenizer import Tokenizer
  from dpojax.models.config import ModelConfig
  from dpojax.models.language_model import LanguageModel
  from dpojax.models.weights import tensors_from_params
  from tests.cli.tiny_model import TEMPLATE, WORDS

  tokenizer = Tokenizer.from_words(WORDS, eos="<end>", unknown="<unk>", chat_template=TEMPLATE)
  size = {"hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "ffn": 24, "max_positions": 40}
  config = ModelConfig(vocab_size=tokenizer.vocab_size, tie_embeddings=False, eos_ids=tokenizer.eos_ids, **size)
  params = jax.device_get(LanguageModel(config).init(jax.random.key(3)))
  tensors = tensors_from_params(config, params)
  write_model_folder(folder, config.to_transformers(), tensors, tokenizer, {}, max_shard_bytes=max_shard_bytes)


def sharded(folder: pathlib.Path) -> None:
  """The same with its weights in several files, and an index."""
  model(folder, max_shard_bytes=5000)


def reward(folder: pathlib.Path) -> None:
  """A reward model with the tokenizer of the tiny model."""
  import shutil

  from dpojax.interop.tokenizer import Tokenizer
  from tests.cli.tiny_model import TEMPLATE

  shutil.copytree(GOLDENS / "rewards" / "llama_untied", folder)
  Tokenizer.from_words([f"w{i}" for i in range(20)], eos="<end>", chat_template=TEMPLATE).save(folder)


def gguf(folder: pathlib.Path) -> None:
  """A GGUF file, model.gguf, without a tokenizer."""
  from tests.interop.test_gguf import write_gguf

  folder.mkdir()
  write_gguf(folder / "model.gguf", "llama_tied_linear_bfloat16")


def stages(folder: pathlib.Path) -> None:
  """An experiment as runs leave it, without weights, and a comparison of its policies."""
  from tests.report.made_stages import make_comparison, make_experiment

  folder.mkdir()
  made = make_experiment(folder, betas=(0.1, 0.5), dots=2, steps=4)
  policies = {"sft": (made["sft"], "SFT", 0.0, 0.6), "dpo_0.1": (made["dpo_0.1"], "DPO", 10.0, 2.9)}
  make_comparison(folder / "compare", policies)


def run(folder: pathlib.Path) -> None:
  """Two steps of DPO with a checkpoint, in run/workdir; config, model and pairs lie beside it."""
  from dpojax.cli.main import main
  from tests.training.runs import write_config

  folder.mkdir()
  config = write_config(folder, **{"train.steps": 2, "evaluation.every": 0, "checkpoint.every": 2})
  assert main(["train", f"--config={config}", f"--workdir={folder / 'workdir'}"]) == 0


SEEDS: dict[str, Callable[[pathlib.Path], None]] = {
  "model": model,
  "sharded": sharded,
  "reward": reward,
  "gguf": gguf,
  "stages": stages,
  "run": run,
}


class Seeds:
  """Makes seeds in a folder when they are first asked for."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    folder.mkdir(parents=True, exist_ok=True)

  def of(self, case: Case) -> pathlib.Path:
    """The folder in which all seeds of the case lie."""
    for name in case.seeds:
      self.files(name)
    return self.folder

  @functools.cache  # noqa: B019 (one object a process)
  def files(self, name: str) -> dict[str, bytes]:
    """Path below the case's folder, NAME/..., of every file of a seed -> content."""
    if not (self.folder / name).exists():
      SEEDS[name](self.folder / name)
    found = sorted(path for path in (self.folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}
