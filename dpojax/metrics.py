"""Every metric of `metrics.jsonl`, once: its name for people, unit, meaning and formula.

Reports and plots take names and units from here (`dpojax.report.labels`), and the site makes its page of metrics from it.
A metric that a run records and that has no entry fails the tests of recipes (`tests/recipes/conftest.py`).
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

STEPS = ("train", "eval")


@dataclasses.dataclass(frozen=True)
class Metric:
  """One metric.

  Attributes:
    label: its name for people.
    meaning: what it says, in a sentence.
    formula: how it is computed; empty where the meaning says it.
    unit: as an axis has it; empty: none, or that of the reward.
    fraction: whether it is one, printed as a percentage.
    decimals: of a printed number.
    tiny: whether it is printed by significant digits, because decimals would make it 0.
    splits: of `metrics.jsonl` where it stands.
  """

  label: str
  meaning: str
  formula: str = ""
  unit: str = ""
  fraction: bool = False
  decimals: int = 4
  tiny: bool = False
  splits: tuple[str, ...] = STEPS


_step = functools.partial(Metric, splits=("train",))
_policy = functools.partial(Metric, splits=("policy",))
_rollout = functools.partial(Metric, splits=("rollout",))

# NAME stands for what the user named: a loss or a reward.
METRICS: Mapping[str, Metric] = {
  # Of any step and evaluation.
  "loss": Metric("loss", "What is minimised, without weight decay.", "Σ weight · loss of an example / Σ weight"),
  "loss/NAME": Metric("loss of one term", "Of a weighted sum of losses, one term alone, before its weight."),
  "mean_token_accuracy": Metric(
    "token accuracy", "How often the most probable next token is the answer's.", "tokens right / tokens", fraction=True
  ),
  "entropy": Metric(
    "entropy",
    "Of the policy's next-token distribution, along the answers. In split `policy` along what the policy wrote.",
    "mean over tokens of -Σ p log p",
    unit="nats a token",
    splits=(*STEPS, "policy"),
  ),
  # Of compared answers.
  "rewards/margins": Metric(
    "reward margin",
    "By how much the chosen answer's reward exceeds the rejected one's. 0 at the start of DPO; rises while it learns.",
    "β [(log π(w) - log π_ref(w)) - (log π(l) - log π_ref(l))]; of a reward model r(w) - r(l)",
  ),
  "rewards/accuracies": Metric(
    "reward accuracy",
    "Fraction of pairs whose chosen answer has the higher reward. Ties have no order and are left out.",
    "pairs with margin > 0 / pairs that have an order",
    fraction=True,
  ),
  "rewards/chosen": Metric(
    "reward of chosen",
    "Implicit reward of the chosen answer. Without a reference β times its log-prob; of a reward model its reward.",
    "β (log π(w) - log π_ref(w))",
  ),
  "rewards/rejected": Metric(
    "reward of rejected",
    "The same of the rejected answer; of a ranking the mean over all but the first.",
    "β (log π(l) - log π_ref(l))",
  ),
  "accuracy/length_matched": Metric(
    "reward accuracy, lengths alike",
    "The accuracy of pairs whose lengths differ by at most a tenth of the longer: what length alone cannot explain.",
    fraction=True,
  ),
  "displacement/chosen": Metric(
    "chosen less likely than under the reference",
    "Fraction of chosen answers that became less probable. High and rising: likelihood displacement.",
    "answers with log π(w) < log π_ref(w) / answers",
    fraction=True,
  ),
  "logps/chosen": Metric("log-prob of chosen", "Sum over the answer's tokens.", "log π(w)", unit="nats an answer"),
  "logps/rejected": Metric("log-prob of rejected", "Sum over the answer's tokens.", "log π(l)", unit="nats an answer"),
  "ratio/chosen": Metric(
    "log-ratio of chosen", "The implicit reward without β.", "log π(w) - log π_ref(w)", unit="nats an answer"
  ),
  "ratio/rejected": Metric(
    "log-ratio of rejected", "The implicit reward without β.", "log π(l) - log π_ref(l)", unit="nats an answer"
  ),
  "length/chosen": Metric("length of chosen", "Scored tokens of the chosen answer.", unit="tokens", decimals=1),
  "length/rejected": Metric("length of rejected", "Scored tokens of the rejected answer.", unit="tokens", decimals=1),
  "logits/chosen": Metric(
    "mean logit of chosen", "Mean over the vocabulary and the chosen answer's tokens, as TRL reports it."
  ),
  "logits/rejected": Metric("mean logit of rejected", "The same of the rejected answer."),
  # Of reward models.
  "rewards/mean": Metric(
    "mean reward", "Over all answers. A loss of differences does not fix it; `loss.centring` does."
  ),
  "rewards/square": Metric("mean squared reward", "With `rewards/mean` it gives the variance.", "mean of r²"),
  "rewards/disagreement": Metric(
    "disagreement of the heads",
    "Standard deviation over the heads of an ensemble of a pair's difference.",
    "sd over heads of r(w) - r(l)",
  ),
  # Of losses that carry a number from step to step.
  "beta": Metric(
    "beta in use", "β-DPO: the β of this step.", "β (1 + `loss.dynamic_beta` · (gap - running gap)), at least β/100"
  ),
  "running/reward_gap": Metric("running reward gap", "β-DPO: running mean of the batch's reward gap."),
  "running/shift": Metric(
    "running shift",
    "BCO: running mean of the rewards, which is subtracted.",
    "mean over steps of (mean reward of desirable + of undesirable)/2",
  ),
  "running/shift_count": Metric("steps in the shift", "How many steps that mean is of."),
  # Of the optimizer and the machine.
  "grad_norm": _step("gradient norm", "Global norm before clipping (`optimizer.clip_norm`).", "√Σ g²"),
  "learning_rate": _step("learning rate", "Of this step.", tiny=True),
  "skipped": _step("steps skipped", "Steps so far whose loss or gradient was not finite; they changed nothing."),
  "skipped_in_row": _step("steps skipped in a row", "The run ends at `train.max_skipped`."),
  "taken": _step(
    "step taken", "0: `policy_gradient.update_kl_limit` refused the step, and those to the roll-out's end have no rows."
  ),
  "num_tokens": _step(
    "tokens read", "Since the start: each answer with its prompt, as if it stood alone.", unit="tokens", decimals=0
  ),
  "tokens_per_second": _step("speed", "Tokens of the step over its time.", unit="tokens a second", decimals=0),
  "time/step": _step("time of a step", "From the end of the step before.", unit="seconds"),
  "time/data": _step(
    "wait for a batch",
    "How long the devices waited for the batch. Near `time/step`: data are the bottleneck.",
    unit="seconds",
  ),
  # Of what the policy writes between steps.
  "reward/NAME": _policy(
    "reward", "Mean of a reward of `monitor.rewards` over the answers to held-out prompts.", decimals=3
  ),
  "win_rate": _policy(
    "win rate against the reference",
    "How often the policy's answer beats the reference's to the same prompt; ties and equal answers are a half.",
    "mean preference; `win_rate_low` and `win_rate_high` are Wilson's 95 % interval",
    fraction=True,
  ),
  "win_rate_low": _policy("win rate, lower end", "Of the 95 % interval.", fraction=True),
  "win_rate_high": _policy("win rate, upper end", "Of the 95 % interval.", fraction=True),
  "judge/position_bias": _policy(
    "position bias of the judge", "By how much standing first helps, of a user's judge.", fraction=True
  ),
  "kl/sequence": _policy(
    "KL to the reference",
    "Exact along the answers that the policy wrote: at each token the whole distributions are compared.",
    "mean over answers of Σ_t KL(π(·|t) ‖ π_ref(·|t))",
    unit="nats an answer",
    decimals=3,
  ),
  "kl/token": _policy(
    "KL to the reference",
    "The same over all tokens. `stop.kl_budget` is compared with it.",
    "Σ KL / Σ tokens",
    unit="nats a token",
  ),
  "path_kl/sequence": _policy(
    "KL along truncated samples",
    "Stands for `kl/sequence` under greedy choice, top-k or a nucleus, where it is no KL of the policy.",
    unit="nats an answer",
    decimals=3,
  ),
  "path_kl/token": _policy("KL along truncated samples", "As above.", unit="nats a token"),
  "kl/k1": _policy(
    "KL by k1, mean log-ratio",
    "Estimate from the drawn tokens alone; noisy.",
    "mean of log π - log π_ref",
    unit="nats an answer",
    decimals=3,
  ),
  "kl/k3": _policy(
    "KL by k3",
    "Sum of the estimates of tokens, each at least 0; no KL of whole answers.",
    "Σ_t (π_ref/π - 1 - log π_ref/π)",
    unit="nats an answer",
    decimals=3,
  ),
  "path_kl/k1": _policy(
    "k1 along truncated samples", "As `kl/k1`, under truncated sampling.", unit="nats an answer", decimals=3
  ),
  "path_kl/k3": _policy(
    "k3 along truncated samples", "As `kl/k3`, under truncated sampling.", unit="nats an answer", decimals=3
  ),
  "length/policy": _policy("length", "Tokens of an answer that the policy wrote.", unit="tokens", decimals=1),
  "finished": _policy(
    "answers that end by themselves", "By EOS or a stop text, not at `monitor.max_tokens`.", fraction=True
  ),
  "distinct/1": _policy(
    "distinct-1, tokens", "Fraction of different tokens among all that were written.", fraction=True
  ),
  "distinct/2": _policy("distinct-2, pairs of tokens", "The same of pairs of neighbours.", fraction=True),
  "under_budget/reward": Metric(
    "best reward within the budget",
    "At a step whose checkpoint is kept as the best that keeps to `stop.kl_budget`.",
    splits=("under_budget",),
  ),
  # Of roll-outs.
  "objective/score": _rollout(
    "score", "Mean of what is learned from: the reward, with what a missing end does.", decimals=3
  ),
  "objective/reward": _rollout("reward, before what a missing end does", "Mean reward of the answers.", decimals=3),
  "objective/reward_raw": _rollout("reward, not normalised", "Where `rollout.normalise` is set.", decimals=3),
  "objective/reward_sd": _rollout("standard deviation of rewards", "Over the answers of a roll-out.", decimals=3),
  "objective/rlhf_reward": _rollout(
    "score less KL penalty", "What a policy gradient maximises.", "score - weight · KL", decimals=3
  ),
  "objective/non_score_reward": _rollout("KL penalty", "Minus weight times KL.", "- weight · KL", decimals=3),
  "objective/kl": _rollout(
    "KL by k1", "To the reference.", "mean over answers of Σ_t (log π - log π_ref)", unit="nats an answer", decimals=3
  ),
  "objective/kl_token": _rollout("KL by k1", "The same over all tokens.", unit="nats a token"),
  "objective/kl_coef": _rollout("weight of KL", "As `policy_gradient.kl_controller` left it."),
  "objective/entropy": _rollout("entropy", "Of the whole next-token distribution.", unit="nats a token"),
  "objective/reward_of_reference": _rollout(
    "reward of the reference's answers", "Where `online.opponent=reference`.", decimals=3
  ),
  "rollout/length": _rollout("length", "Tokens of an answer.", unit="tokens", decimals=1),
  "rollout/eos_share": _rollout("answers that end by themselves", "Not at `rollout.max_tokens`.", fraction=True),
  "rollout/logp_gap": _rollout(
    "sampler apart from training",
    "Mean distance of the sampler's log-probs from those of training.",
    "mean |Δ log π|",
    unit="nats a token",
    tiny=True,
  ),
  "rollout/logp_gap_max": _rollout(
    "sampler apart from training, largest", "The largest distance.", unit="nats a token", tiny=True
  ),
  "value/explained_variance": _rollout(
    "variance explained",
    "Of returns by the critic, before it learns from the roll-out. Below 0: worse than the mean.",
    "1 - Var(return - value)/Var(return)",
    fraction=True,
  ),
  "value/mean": _rollout("mean value", "Of the critic, over tokens.", decimals=3),
  "pairs/pairs": _rollout("pairs made", "Of the answers of a roll-out.", decimals=1),
  "pairs/tied": _rollout("left out: equal scores", "Pairs without an order.", decimals=1),
  "pairs/identical": _rollout("left out: identical answers", "Pairs of one and the same text.", decimals=1),
  "pairs/below_margin": _rollout("left out: below online.min_margin", "Pairs whose scores are too near.", decimals=1),
  "pairs/not_chosen": _rollout("left out by online.choose", "Pairs that the rule does not take.", decimals=1),
  "pairs/margin": _rollout("score of the winner less the loser's", "Mean over pairs.", decimals=3),
  "time/sample": _rollout("time of sampling", "Of a roll-out.", unit="seconds"),
  "time/reward": _rollout("time of scoring", "Of a roll-out.", unit="seconds"),
  "time/forward": _rollout("time of log-probs and values", "Of a roll-out.", unit="seconds"),
  # Of steps from a roll-out.
  "policy/loss": _step(
    "policy loss", "The clipped surrogate alone, without value, KL and entropy.", "mean of -min(ratio A, clip(ratio) A)"
  ),
  "policy/approx_kl": _step(
    "largest move of the policy",
    "From the policy that wrote the roll-out, before the step.",
    "½ mean of (log π/π_old)²",
    tiny=True,
  ),
  "policy/clip_fraction": _step(
    "ratios beyond the clip",
    "Fraction of tokens.",
    "tokens with |ratio - 1| > `policy_gradient.clip` / tokens",
    fraction=True,
  ),
  "policy/ratio": _step("mean ratio", "Exactly 1 in the first step of a roll-out.", "mean over tokens of π/π_old"),
  "policy/ratio_square": _step(
    "mean squared ratio", "With the mean ratio it gives the variance.", "mean of (π/π_old)²"
  ),
  "policy/ratio_variance": _step("largest variance of ratios", "About 1.", "mean of (π/π_old - 1)²", tiny=True),
  "policy/answer_ratio": _step("mean ratio of answers", "Product over an answer's tokens."),
  "policy/answer_ratio_square": _step(
    "mean squared ratio of answers", "(mean ratio)² over this is the fraction of samples that still count."
  ),
  "policy/entropy": _step("entropy", "Of the policy along the roll-out.", unit="nats a token"),
  "policy/kl_loss": _step(
    "KL in the loss", "k3 to the reference, where `policy_gradient.kl=loss`.", "mean k3", unit="nats a token"
  ),
  "value/loss": _step("value loss", "Clipped squared error of the critic.", "mean ½ max((V - R)², (V_clip - R)²)"),
  "value/clip_fraction": _step(
    "values beyond the clip", "Fraction of tokens whose value has passed its clip.", fraction=True
  ),
  # Made by reports of the steps of a roll-out; not in metrics.jsonl.
  "steps/taken": Metric(
    "steps taken", "Of a roll-out's steps, the fraction that was taken.", fraction=True, splits=("report",)
  ),
}

_PATTERNS = {name: re.compile(re.escape(name).replace("NAME", ".+")) for name in METRICS if name.endswith("NAME")}


def metric_named(name: str) -> Metric | None:
  """The entry of a recorded metric; of `X_error`, a standard error, that of `X`. None where there is none.

  >>> metric_named("reward/true").label, metric_named("kl/token_error").unit, metric_named("nonsense")
  ('reward', 'nats a token', None)
  """
  for found in (name, name.removesuffix("_error")):
    if found in METRICS:
      return METRICS[found]
    for known, pattern in _PATTERNS.items():
      if pattern.fullmatch(found):
        return METRICS[known]
  return None
