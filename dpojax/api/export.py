"""A model, or the critic of a run, as a folder that transformers loads."""

import pathlib

import ml_dtypes
import numpy as np

from dpojax.config.describe import described
from dpojax.config.record import read_config, to_json
from dpojax.digests import check, list_files
from dpojax.errors import CheckpointError, ConfigError
from dpojax.files import replacing_folder, write_atomically
from dpojax.interop.files import write_model_folder
from dpojax.interop.model_card import model_card, plain_card
from dpojax.interop.vocabulary import check_embedding
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import RewardModel
from dpojax.models.weights import CRITIC_KEY, reward_model_to_transformers, tensors_from_params
from dpojax.report import read_result
from dpojax.report.run_report import with_ties
from dpojax.training.checkpoint import CHECKPOINTS
from dpojax.training.model_files import critic_description, load_critic, load_model, run_folder

README = "README.md"  # for people, who may edit it: no digest is kept of it


def name_of(source: str | pathlib.Path) -> str:
  """How a model is called on its card: by the last part of its path."""
  text = str(source)
  return text if ":" in text else pathlib.Path(source).resolve().name


def export(
  workdir: str | pathlib.Path,
  out: pathlib.Path,
  *,
  step: int | None = None,
  max_shard_bytes: int,
  dtype: str = "float32",
  head: str | None = None,
  pad_token: str | None = None,
  critic: bool = False,
) -> None:
  """Writes a model, or the `critic` of a run, to `out`, which appears only when it is complete.

  Args:
    workdir: of a run, as a path; as a text, any model: see `training.model_files.load_model`.
    step: of a run's checkpoint.

  Raises:
    ConfigError: `out` holds something already; an option does not fit the model; the run has no critic.
    CheckpointError: `workdir` is not that of a run, or has no such checkpoint.
    WeightsError: there is no such model.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ConfigError(f"--out={out}: must be new or empty, and holds something already")
  run: pathlib.Path | None = None
  if isinstance(workdir, pathlib.Path):
    run = workdir
    check(run, ["model.json", "result.json"])
    if not (run / "model.json").is_file():
      raise CheckpointError(
        f"--workdir={run}: {'no model.json there; is it the workdir of a run?' if run.exists() else 'no such folder'}"
      )

  if run is None and (run := run_folder(workdir)) is not None and run != pathlib.Path(workdir):
    if step is not None:
      raise ConfigError(f"--step={step}: --model={workdir} names a checkpoint already; leave --step out")
    step, workdir = int(pathlib.Path(workdir).name), run  # one of its checkpoints
  if run is None and step is not None:
    raise ConfigError(f"--step={step}: {workdir} is no run of dpojax, which alone has checkpoints; leave it out")
  result = read_result(run) if run is not None and (run / "result.json").exists() else None
  source = workdir if run is None or step is None else run / CHECKPOINTS / str(step)
  if critic:
    loaded = load_critic(source)
    model, params, tokenizer = loaded.model, loaded.params, loaded.tokenizer
  else:
    model, params, tokenizer = load_model(source)
  rewards, start = "", ""
  if isinstance(model, RewardModel):
    place, rewards = _head(model, head)
    tokenizer = _with_padding(tokenizer, pad_token)
    assert tokenizer.pad_id is not None
    check_embedding(tokenizer, model.config.vocab_size, str(workdir))
    outside, tensors = reward_model_to_transformers(*model.one_head(params, place), pad_id=tokenizer.pad_id)
    if critic:
      outside[CRITIC_KEY] = True
      start = (critic_description(run) or {}).get("start", "") if run is not None else ""
  else:
    for name, value in (("head", head), ("pad-token", pad_token)):
      if value is not None:
        raise ConfigError(f"--{name}={value}: {workdir} holds a language model; leave the option out")
    if not isinstance(model, LanguageModel):
      raise ConfigError(
        f"{workdir} holds a model of your own, {type(model).__name__}, which transformers does not know"
      )
    outside, tensors = model.config.to_transformers(), tensors_from_params(model.config, params)
  if dtype == "bfloat16":
    tensors = {name: np.asarray(tensor).astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
  if run is None:
    card = plain_card(name_of(workdir), rewards)
  else:
    config = read_config(run)
    card = model_card(
      run.resolve().name,
      to_json(config),
      result and with_ties(result),
      method=described(config),
      step=step,
      rewards=rewards,
      critic=critic,
      critic_start=start,
    )
  with replacing_folder(out) as part:
    write_model_folder(
      part,
      outside | {"dtype": dtype, "torch_dtype": dtype},
      tensors,
      tokenizer,
      generation_config(tokenizer),
      max_shard_bytes=max_shard_bytes,
    )
    write_atomically(part / README, card)
    for weights in part.glob("*.safetensors"):
      weights.chmod((part / "config.json").stat().st_mode)  # safetensors writes them for the owner alone
    list_files(part, sorted(path.name for path in part.iterdir() if path.name != README))


def _head(model, asked: str | None) -> tuple[int | None, str]:
  """(the head to export, None for the mean; what the score is, in words)."""
  place = None
  if asked not in (None, "mean"):
    if not asked.isdecimal() or int(asked) >= model.heads:
      raise ConfigError(f"--head={asked}: wants mean, or a number from 0 to {model.heads - 1}")
    place = int(asked)
  words = ""
  if model.heads > 1:
    words = (
      f"The score is the mean over {model.heads} heads." if place is None else f"The score is that of head {place}."
    )
  if model.normalisation is None:
    return place, f"{words} Its mean and spread were not measured.".strip()
  one = model.normalisation.of_head(place)
  spread = (
    f"Over the run's held-out answers scores have mean {one.mean[0]:.4g} and standard deviation {one.std[0]:.4g}."
  )
  return place, f"{words} {spread}".strip()


def _with_padding(tokenizer, asked: str | None):
  """The tokenizer with a pad token that ends no answer: transformers scores the last token that is no padding."""
  token = tokenizer.spare_token() if asked is None else asked
  if token is None:
    raise ConfigError(
      "the tokenizer has no spare special token, and padding with EOS would hide where answers end; name a token that "
      "never ends an answer with --pad-token=TEXT"
    )
  return tokenizer.with_pad_token(token)


def generation_config(tokenizer) -> dict:
  """Where generation begins and ends, as transformers' generation_config.json says it."""
  ends = list(tokenizer.eos_ids)
  ids = {
    "bos_token_id": tokenizer.bos_id,
    "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_id,
    "pad_token_id": tokenizer.pad_id,
  }
  return {name: value for name, value in ids.items() if value is not None}
