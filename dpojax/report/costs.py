"""What a method costs, counted from what its stages left: tokens, floating-point operations, time, models in memory.

A token costs 2 N operations where a model of N parameters (embeddings and head not counted) reads or writes it, and 6 N where it is
trained on: forward 2 N, backward 4 N. Tokens are counted as each answer alone with its prompt, as `num_tokens` of
metrics.jsonl; shared prompts make the program do less. Looks at the policy and evaluations are not counted: they measure.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpojax.errors import CheckpointError
from dpojax.report.methods import reward_kind, spec_of
from dpojax.report.records import check_listed, read_lines
from dpojax.report.stages import Stage, read_stage, readable_stage, source_folders
from dpojax.training.stage_record import Fingerprint

FORWARD, TRAINED = 2, 6  # operations a parameter and token
WRITES = ("pairs", "best_of_n")  # recipes whose answers.jsonl holds what they sampled
PATHS = ("model.path", "reference.path", "data.path", "policy_gradient.critic_path")


@dataclasses.dataclass(frozen=True)
class Cost:
  """What stages spent together.

  Attributes:
    trained: tokens trained on, in all passes, each answer with its prompt; of PPO's critic not again.
    sampled: tokens written.
    flops: floating-point operations; NaN where a model's size is not known.
    seconds: of its steps and roll-outs, compilation included.
    stages: what was counted, upstream first.
    notes: what could not be counted, a sentence each.
    data: (digest, number) of each set of labelled examples, held-out ones among them, that a loss or a reward model read.
    judged: answers scored while training by a reward that is no model: by a person, a rule or the true reward.
  """

  trained: int = 0
  sampled: int = 0
  flops: float = 0.0
  seconds: float = 0.0
  stages: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  data: tuple[tuple[str, int], ...] = ()
  judged: int = 0

  @property
  def labels(self) -> int:
    """Labelled examples: of pairs, comparisons."""
    return sum(number for _, number in self.data)

  def __add__(self, other: "Cost") -> "Cost":
    return Cost(
      self.trained + other.trained,
      self.sampled + other.sampled,
      self.flops + other.flops,
      self.seconds + other.seconds,
      self.stages + other.stages,
      tuple(dict.fromkeys(self.notes + other.notes)),
      tuple(dict.fromkeys(self.data + other.data)),
      self.judged + other.judged,
    )


def parameters(model: Mapping[str, Any] | None) -> float:
  """N, the parameters of a decoder without embeddings and head, from its model.json; NaN where there is none.

  >>> parameters({"hidden": 128, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 32, "ffn": 384})
  426624.0
  """
  if not model or "layers" not in model:
    return math.nan
  hidden, heads, keys = model["hidden"], model["heads"] * model["head_dim"], model["kv_heads"] * model["head_dim"]
  attention = 2 * hidden * heads + 2 * hidden * keys
  biases = (heads + 2 * keys + hidden) * bool(model.get("attention_bias"))
  biases += (2 * model["ffn"] + hidden) * bool(model.get("mlp_bias"))
  layer = attention + 3 * hidden * model["ffn"] + 2 * hidden + biases
  return float(model["layers"] * layer + hidden)


def whole_cost(stage: Stage) -> Cost:
  """The cost of a stage and of everything that it was made from; a stage that serves twice is counted once."""
  costs: dict[str, Cost] = {}
  _walk(stage, costs)
  total = Cost()
  for cost in costs.values():
    total += cost
  return total


def _walk(stage: Stage, costs: dict[str, Cost]) -> None:
  if stage.record.identity in costs:
    return
  notes = []
  for key, folder in source_folders(stage).items():
    if key == "monitor.rewards":
      continue  # measures
    try:
      source = read_stage(folder)
      if source is None:
        notes.append(f"{stage.path.name}: {key} is no longer at {folder.name}, and is not counted")
      else:
        _walk(source, costs)
    except CheckpointError as error:
      notes.append(f"{stage.path.name}: {key} cannot be read and is not counted ({error})")
  for key in PATHS:
    path = str(stage.setting(key, ""))
    if path and not path.startswith("stage:"):
      source = _stage_at(path)
      if source is not None:
        _walk(source, costs)
      elif key != "data.path":
        notes.append(f"{stage.path.name}: what {key}={path} cost is not counted")
  costs[stage.record.identity] = dataclasses.replace(own_cost(stage), stages=(stage.path.name,)) + Cost(
    notes=tuple(notes)
  )


def _stage_at(path: str) -> Stage | None:
  """The run that a path given by the user lies in, itself or one of its checkpoints; None where it is none."""
  folder = pathlib.Path(path)
  for candidate in (folder, *list(folder.parents)[:2]):
    if (candidate / "stage.json").is_file():
      return readable_stage(candidate)
  return None


def own_cost(stage: Stage) -> Cost:
  """The cost of a stage alone."""
  seconds = stage.seconds or 0.0
  trained = max((int(row.get("num_tokens", 0)) for row in stage.splits.get("train", [])), default=0)
  size = parameters(stage.model)
  if stage.recipe in WRITES:
    sampled, size = answer_tokens(stage), parameters(_source_model(stage, "model.path"))
    return Cost(0, sampled, FORWARD * sampled * (size + _reward_size(stage, size)), seconds)
  if stage.recipe == "policy_gradient":
    sampled, read = rollout_tokens(stage), rollout_texts(stage)
    critic = critic_size(stage, size)
    forward = 2 * size + critic + _reward_size(stage, size)  # the policy again, and the reference
    flops = TRAINED * trained * (size + critic) + FORWARD * (size * sampled + forward * read)
    return Cost(trained, sampled, flops, seconds, judged=judged_answers(stage))
  flops = TRAINED * size * trained + FORWARD * size * reference_tokens(stage, trained)
  if stage.recipe != "online":
    labelled = labelled_data(stage) if stage.recipe in ("preference", "reward_model") else ()
    return Cost(trained, 0, flops, seconds, data=labelled)
  sampled = rollout_tokens(stage)
  flops += FORWARD * sampled * (size + _reward_size(stage, size))
  return Cost(trained, sampled, flops, seconds, judged=judged_answers(stage))


def labelled_data(stage: Stage) -> tuple[tuple[str, int], ...]:
  """(digest, examples) of what it is trained on, and of what is held out for it."""
  known = [stage.record.fingerprints.get(name) for name in ("training data", "held-out data")]
  return tuple((one.digest, examples_of(one)) for one in known if one is not None and examples_of(one))


def judged_answers(stage: Stage) -> int:
  """Answers of its roll-outs, 0 where a model scores them."""
  return 0 if reward_kind(stage) == "learned" else answers_a_rollout(stage) * len(stage.splits.get("rollout", []))


def reference_tokens(stage: Stage, trained: int) -> float:
  """Tokens that the reference of a loss reads: all that are trained on, or with a cache those of one pass; 0 without one."""
  spec = spec_of(stage) if stage.recipe in ("preference", "online") else None
  if spec is None or not spec.reads("reference"):
    return 0.0
  if stage.setting("reference.kind") != "cache":
    return float(trained)
  seen = stage.steps * int(stage.setting("batch.size", 1))
  examples = examples_of(stage.record.fingerprints.get("training data"))
  return trained * (min(1.0, examples / seen) if seen and examples else 1.0)


def critic_size(stage: Stage, size: float) -> float:
  """N of PPO's critic: the reward model's or the model it starts from, else the policy's; 0 without a network of its own."""
  if stage.setting("policy_gradient.method") != "ppo" or stage.setting("policy_gradient.critic") == "shared":
    return 0.0
  for key in ("policy_gradient.critic_path", "rollout.reward"):
    found = parameters(_source_model(stage, key))
    if not math.isnan(found):
      return found
  return size


def answers_a_rollout(stage: Stage) -> int:
  """Answers that one roll-out asks for."""
  samples = int(stage.setting("rollout.samples", 1))
  prompts = int(stage.setting("batch.size", 1)) * int(stage.setting("policy_gradient.minibatches", 1))
  if stage.recipe == "online":
    from dpojax.config.on_policy import OnlineSettings
    from dpojax.rollout.pair_making import prompts_of_rollout

    names = [field.name for field in dataclasses.fields(OnlineSettings)]
    online = OnlineSettings(**{name: stage.setting(f"online.{name}") for name in names})
    prompts = prompts_of_rollout(int(stage.setting("batch.size")), samples, online)
  return prompts * samples


def rollout_tokens(stage: Stage) -> int:
  """Tokens that a policy wrote in its roll-outs."""
  number = answers_a_rollout(stage)
  return round(sum(number * row.get("rollout/length", 0.0) for row in stage.splits.get("rollout", [])))


def rollout_texts(stage: Stage) -> float:
  """Tokens of all roll-outs, each answer with its prompt: what every forward over them reads.

  That of a roll-out is counted from the steps of its first pass that were taken, as far as they went.
  """
  steps, previous = [], 0
  for row in stage.splits.get("train", []):
    steps.append((row["step"], int(row.get("num_tokens", 0)) - previous))
    previous = int(row.get("num_tokens", 0))
  minibatches = int(stage.setting("policy_gradient.minibatches", 1))
  total = 0.0
  for rollout in stage.splits.get("rollout", []):
    first = [tokens for step, tokens in steps if rollout["step"] < step <= rollout["step"] + minibatches and tokens]
    total += minibatches * sum(first) / len(first) if first else 0.0
  return total


def answer_tokens(stage: Stage) -> int:
  """Tokens of all answers in answers.jsonl, whose lines hold them as ids."""
  path = stage.path / "answers.jsonl"
  check_listed(path)
  rows = read_lines(path) if path.exists() else ()
  try:
    return sum(len(sample["tokens"]) for row in rows for sample in row.get("samples", ()))
  except (TypeError, LookupError):
    raise CheckpointError(f"{path}: a sample has no tokens; run the same command again") from None


def models_in_memory(stage: Stage) -> list[str]:
  """What has to be there while it trains: ["policy", "reference", "reward model", "critic"]."""
  found = ["policy"]
  if stage.recipe in ("preference", "online"):
    spec = spec_of(stage)
    if spec is None or spec.reads("reference"):
      cached = stage.setting("reference.kind") == "cache"
      found.append("reference (before training, then cached)" if cached else "reference")
  if stage.recipe == "policy_gradient":
    found.append("reference")
  if stage.recipe in ("policy_gradient", "online") and reward_kind(stage) == "learned":
    found.append("reward model")
  if stage.recipe == "policy_gradient" and stage.setting("policy_gradient.method") == "ppo":
    shared = stage.setting("policy_gradient.critic") == "shared"
    found.append("critic (a head)" if shared else "critic")
  return found


def mean_cost(stages: Sequence[Stage]) -> Cost:
  """The mean over runs of what each costs with its whole upstream; stages are those of the first run."""
  costs = [whole_cost(stage) for stage in stages]
  return Cost(
    round(_mean(cost.trained for cost in costs)),
    round(_mean(cost.sampled for cost in costs)),
    _mean(cost.flops for cost in costs),
    _mean(cost.seconds for cost in costs),
    costs[0].stages,
    tuple(dict.fromkeys(note for cost in costs for note in cost.notes)),
    (("", round(_mean(cost.labels for cost in costs))),),
    round(_mean(cost.judged for cost in costs)),
  )


def _mean(values: Iterable[float]) -> float:
  several = list(values)
  return sum(several) / len(several)


def _source_model(stage: Stage, key: str) -> dict[str, Any] | None:
  folder = source_folders(stage).get(key)
  source = readable_stage(folder) if folder else _stage_at(_path_in(str(stage.setting(key, ""))))
  return source.model if source is not None else None


def _reward_size(stage: Stage, size: float) -> float:
  """N of the models that score answers: each reward model's, of an implicit reward policy and reference; 0 for rules."""
  key = "pairs.reward" if stage.recipe == "pairs" else "rollout.reward"
  text = str(stage.setting(key, ""))
  kinds = re.findall(r"\b(model|implicit):", text)
  if not kinds:
    return 0.0
  known = parameters(_source_model(stage, key))
  each = size if math.isnan(known) else known
  return sum(each * (2 if kind == "implicit" else 1) for kind in kinds)


def _path_in(text: str) -> str:
  found = re.search(r"\b(?:model|implicit):([^?\s,+]+)", text)
  return found[1].strip("'\"") if found else text


def examples_of(data: Fingerprint | None) -> int:
  """How many examples a fingerprint of data tells of, in words; 0 where it does not."""
  found = re.match(r"([\d,]+) examples", data.about) if data is not None else None
  return int(found[1].replace(",", "")) if found else 0
