"""Settings of stages that learn from what the policy writes; part of `dpojax.config.schema`."""

import dataclasses

from dpojax.config.option import LARGEST_SEED, LARGEST_WEIGHT, LOWEST_TEMPERATURE, MOST_SAMPLES, option


@dataclasses.dataclass(frozen=True)
class RolloutSettings:
  """What the policy writes to learn from, in recipes policy_gradient, online, best_of_n and comparison."""

  prompts: int = option(
    0,
    "prompts that are answered, equal ones each for itself (data.duplicates=drop leaves them out); 0: all of the data, 10,000 of an environment; recipes best_of_n, comparison: 256",
    minimum=0,
    maximum=1_000_000,
  )
  samples: int = option(4, "answers a prompt", minimum=1, maximum=MOST_SAMPLES)
  reward: str = option("auto", "what scores the answers, as in monitor.rewards but one alone; auto: true where known")
  normalise: bool = option(
    False, "the reward gets mean 0 and standard deviation 1 over answers of the reference, so that KL keeps its weight"
  )
  normalise_on: int = option(256, "prompts whose answers that is measured on", minimum=2)
  max_tokens: int = option(64, "longest answer", minimum=1)
  temperature: float = option(1.0, "sampling temperature, at which all log-probs are taken", minimum=LOWEST_TEMPERATURE)
  stop: str = option("", "text that ends an answer; several as a JSON list")
  missing_eos: str = option(
    "keep",
    "score of an answer that was cut at max_tokens: keep it; replace it by -rollout.eos_penalty; or subtract that",
    choices=("keep", "replace", "subtract"),
  )
  eos_penalty: float = option(1.0, "see rollout.missing_eos", minimum=0.0, maximum=LARGEST_WEIGHT)
  seed: int = option(0, "seed of prompts and answers", minimum=0, maximum=LARGEST_SEED)


@dataclasses.dataclass(frozen=True)
class PolicyGradientSettings:
  """Of recipe=policy_gradient, see docs/ppo.md. A roll-out has minibatches * batch.size prompts."""

  method: str = option("ppo", "whose advantages and defaults", choices=("ppo", "rloo", "grpo", "dr_grpo", "reinforce"))
  epochs: int = option(4, "passes over a roll-out", minimum=1)
  minibatches: int = option(4, "optimizer steps of a pass", minimum=1, maximum=100_000)
  clip: float = option(0.2, "ratios beyond 1 +- this give no gradient", above=0.0)
  dual_clip: float = option(0.0, "loss of a bad token is at most this times its advantage; 0: no bound", minimum=0.0)
  reduction: str = option(
    "auto",
    "what divides the sum over tokens: token (their number), answer (each answer's own, then answers), sequence "
    "(answers), constant (answers * rollout.max_tokens); auto: that of the method",
    choices=("auto", "token", "answer", "sequence", "constant"),
  )
  whiten: str = option(
    "auto",
    "advantages get mean 0 and variance 1 over the minibatch or the rollout; auto: minibatch for ppo, else none",
    choices=("auto", "none", "minibatch", "rollout"),
  )
  whiten_rewards: bool = option(False, "token rewards get variance 1 over the roll-out and keep their mean")
  group_std: str = option(
    "unbiased", "grpo: standard deviation over a prompt's answers by K - 1 or K", choices=("unbiased", "biased")
  )
  gamma: float = option(1.0, "ppo: discount a token", above=0.0, maximum=1.0)
  gae_lambda: float = option(0.95, "ppo: lambda of generalised advantage estimation", minimum=0.0, maximum=1.0)
  critic: str = option(
    "reward",
    "ppo: a network of its own, which starts from a reward model, or a head that shares the policy's",
    choices=("reward", "shared"),
  )
  critic_path: str = option(
    "",
    "ppo, critic=reward: model it starts from, of a ppo run its critic; empty: rollout.reward where that is a model, else "
    "where the policy does",
  )
  value_coef: float = option(0.1, "ppo: weight of the value loss", minimum=0.0, maximum=LARGEST_WEIGHT)
  value_clip: float = option(0.2, "ppo: a value moves by at most this from its old one, in units of reward", above=0.0)
  entropy_coef: float = option(0.0, "weight of the entropy, which is maximised", minimum=0.0, maximum=LARGEST_WEIGHT)
  kl: str = option(
    "auto",
    "where KL to the reference enters: reward (k1 of every token) or loss (k3); auto: loss for grpo and dr_grpo",
    choices=("auto", "reward", "loss"),
  )
  kl_coef: float = option(0.05, "its weight at the start", minimum=0.0, maximum=LARGEST_WEIGHT)
  kl_controller: str = option(
    "fixed", "how the weight follows the KL of roll-outs", choices=("fixed", "adaptive", "exponential")
  )
  kl_target: float = option(6.0, "KL that a controller aims at, nats an answer", above=0.0)
  kl_horizon: float = option(
    10_000.0, "adaptive: answers in which the weight can change by a fifth; above a fifth of a roll-out's", above=0.0
  )
  update_kl_limit: float = option(
    0.02,
    "steps of a roll-out end when half the mean squared log-ratio of a token is beyond this; 0: never",
    minimum=0.0,
  )


@dataclasses.dataclass(frozen=True)
class OnlineSettings:
  """Of recipe=online: pairs that the policy writes itself, made anew while it trains."""

  refresh: int = option(8, "steps between roll-outs; as many as the run has: offline", minimum=1)
  epochs: float = option(1.0, "passes over the pairs of a roll-out; 0.01: one pair of a hundred is read", minimum=0.01)
  opponent: str = option(
    "policy",
    "who writes what is compared: the policy all answers, or the reference half of them",
    choices=("policy", "reference"),
  )
  choose: str = option(
    "best_worst",
    "which answers of a prompt make pairs, as pairs.choose",
    choices=("all", "best_worst", "best_random", "adjacent"),
  )
  label: str = option("highest", "who wins, as pairs.label", choices=("bradley_terry", "highest"))
  min_margin: float = option(0.0, "pairs whose rewards differ by less are left out, and counted", minimum=0.0)


@dataclasses.dataclass(frozen=True)
class ComparisonSettings:
  """Of recipe=comparison: several policies answer the same prompts, beside the one of model.path that they started from."""

  policies: str = option("", "what is compared: stages as stage:NAME, or paths of runs and models, separated by commas")
  best_of_n: str = option("", "a stage of recipe=best_of_n whose points stand beside them, as stage:NAME; empty: none")
  splits: str = option(
    "held_out",
    "whose prompts are answered, by commas: a built-in environment's splits, or held_out and all of data; frontier, oracle and "
    "tournament are those of the first",
  )
  oracle: str = option(
    "",
    "whose answers carry the oracle curve, besides those of model.path: some of comparison.policies, by their names; empty: "
    "no curve",
  )
  games: int = option(
    2,
    "of every two policies at every prompt of the tournament, half of them in either order; 0: no tournament",
    minimum=0,
  )


@dataclasses.dataclass(frozen=True)
class BestOfNSettings:
  """Of recipe=best_of_n: the best of N answers, for several N, from the same rollout.samples answers a prompt."""

  counts: str = option("1,2,4,8,16", "N, by commas; the largest at most a quarter of rollout.samples")
  split: str = option(
    "held_out",
    "whose prompts of an environment: held_out, as looks at a policy have them; or train, to make data of the best answers",
    choices=("held_out", "train"),
  )
