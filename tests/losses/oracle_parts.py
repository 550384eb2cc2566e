"""What the oracles of the losses are made of: log-probs of a batch, log-ratios, modifiers, exact derivatives.

Plain loops over Python numbers, no code of dpojax. All functions take complex numbers too, which gives exact
derivatives (`gradients`): f(x + ih) = f(x) + ih f'(x), and with h = 1e-30 nothing is left of the next term. What a
loss holds constant (a stop-gradient) is its real part.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LN2 = float(np.log(2.0))
CLAMP = 80.0  # of the alpha divergence's exponent, so that exp of it fits float32
STEP = 1e-30

Answers = Sequence[Sequence[Any]]  # per answer the log-probs of its tokens, in nats


@dataclasses.dataclass(frozen=True)
class Pairs:
  """What one model says of B pairs.

  Attributes:
    chosen, rejected: log-probs of the answers' tokens.
    prompt: log-probs of the prompts' tokens but for the first.
    gold: log-probs of a third answer's tokens (TPO).
    chosen_kl, rejected_kl: per pair the sum over the answer's positions of KL(reference || policy).
    chosen_log_sum_sq, rejected_log_sum_sq: per token log of the sum over the vocabulary of p^2 (WPO).
    weight: of each pair; None: all 1.
    margin: of each pair, in units of beta times nats; None: all 0.
    reference_wrote_chosen: of each pair whether the reference wrote the chosen answer, or else the rejected one (XPO).
  """

  chosen: Answers
  rejected: Answers
  prompt: Answers | None = None
  gold: Answers | None = None
  chosen_kl: Sequence[Any] | None = None
  rejected_kl: Sequence[Any] | None = None
  chosen_log_sum_sq: Answers | None = None
  rejected_log_sum_sq: Answers | None = None
  weight: Sequence[float] | None = None
  margin: Sequence[float] | None = None
  reference_wrote_chosen: Sequence[bool] | None = None


@dataclasses.dataclass(frozen=True)
class Singles:
  """What one model says of B single answers; `mismatched` are other prompts' answers after these prompts."""

  answer: Answers
  desirable: Sequence[bool]
  mismatched: Answers | None = None
  weight: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class Rankings:
  """What one model says of up to K answers of B prompts, best first; an answer without tokens is absent."""

  answers: Sequence[Answers]
  weight: Sequence[float] | None = None


# Functions of one real or complex number.


def held(x):
  """Stop-gradient."""
  return float(x.real)


def softplus(x):
  return x + np.log1p(np.exp(-x)) if x.real > 0 else np.log1p(np.exp(x))


def loss_l(x):
  """L(x) = -log sigmoid(x)."""
  return softplus(-x)


def sigmoid(x):
  return 1 / (1 + np.exp(-x)) if x.real > 0 else np.exp(x) / (1 + np.exp(x))


def at_least_zero(x):
  return x if x.real > 0 else 0 * x


def log1mexp(x):
  """log(1 - e^x) for x < 0."""
  return np.log1p(-np.exp(x)) if x.real < -LN2 else np.log(-np.expm1(x))


def smoothed(x, label_smoothing):
  return (1 - label_smoothing) * loss_l(x) + label_smoothing * loss_l(-x)


def log_sum_exp(values):
  top = max(held(v) for v in values)
  return top + np.log(sum(np.exp(v - top) for v in values))


# Log-ratios, lengths and their modifiers.


def sums(answers: Answers) -> list:
  return [sum(answer) for answer in answers]


def means(answers: Answers) -> list:
  return [sum(answer) / len(answer) for answer in answers]


def log_ratios(policy: Answers, reference: Answers) -> list:
  """Per answer the sum over tokens of policy - reference."""
  return [sum(p - r for p, r in zip(one, other, strict=True)) for one, other in zip(policy, reference, strict=True)]


def both_ratios(policy: Pairs, reference: Pairs) -> list[tuple]:
  """(a, b) of every pair."""
  chosen, rejected = log_ratios(policy.chosen, reference.chosen), log_ratios(policy.rejected, reference.rejected)
  return list(zip(chosen, rejected, strict=True))


def lengths(policy: Pairs) -> list[tuple[int, int]]:
  return [(len(w), len(l)) for w, l in zip(policy.chosen, policy.rejected, strict=True)]  # noqa: E741


def score(x, f_divergence="reverse_kl", f_alpha=0.5):
  """s of f-DPO, arXiv:2309.16240: f'(u) at u = e^x without the constant that cancels."""
  if f_divergence == "forward_kl":
    return 1 - np.exp(-x)
  if f_divergence == "js_divergence":
    return LN2 - loss_l(x)
  if f_divergence == "alpha_divergence" and abs(f_alpha - 1) >= 1e-6:
    exponent = (f_alpha - 1) * x
    return (np.exp(exponent if exponent.real < CLAMP else CLAMP + 0 * x) - 1) / (f_alpha - 1)
  assert f_divergence in ("reverse_kl", "alpha_divergence"), f_divergence
  return x


def scores(policy: Pairs, reference: Pairs, divergence: dict) -> list[tuple]:
  """(s(a), s(b)) of every pair."""
  return [(score(a, **divergence), score(b, **divergence)) for a, b in both_ratios(policy, reference)]


def margins(policy: Pairs) -> Sequence[float]:
  return policy.margin or [0.0] * len(policy.chosen)


def logits(policy: Pairs, reference: Pairs, beta, divergence: dict) -> list:
  """beta (s(a) - s(b)) - margin of every pair."""
  both = zip(scores(policy, reference, divergence), margins(policy), strict=True)
  return [beta * (a - b) - margin for (a, b), margin in both]


def desensitised(model: Pairs, ld_alpha: float) -> Pairs:
  """LD-DPO, arXiv:2409.06411: tokens beyond the shorter answer's length weigh ld_alpha. Lengths stay."""
  shared = [min(pair) for pair in lengths(model)]

  def tail(answers):
    return [
      [x if t < k else ld_alpha * x for t, x in enumerate(answer)] for answer, k in zip(answers, shared, strict=True)
    ]

  return dataclasses.replace(model, chosen=tail(model.chosen), rejected=tail(model.rejected))


def wpo_weights(policy: Pairs) -> list[float]:
  """WPO, arXiv:2406.11827: of both answers exp(mean over tokens of log p - log sum p^2), multiplied; held constant."""

  def alignment(answers, squares):
    assert squares is not None
    gaps = ([held(x) - held(y) for x, y in zip(a, s, strict=True)] for a, s in zip(answers, squares, strict=True))
    return [float(np.exp(sum(gap) / len(gap))) for gap in gaps]

  chosen = alignment(policy.chosen, policy.chosen_log_sum_sq)
  rejected = alignment(policy.rejected, policy.rejected_log_sum_sq)
  return [w * l for w, l in zip(chosen, rejected, strict=True)]  # noqa: E741


def beta_dpo_beta(policy: Pairs, reference: Pairs, *, beta, mean, alpha=0.6, least=1e-3) -> float:
  """beta-DPO, arXiv:2407.08639, Eq. 7: beta (1 + alpha (mean of a - b over the batch - `mean`)), held constant."""
  gaps = [held(a - b) for a, b in both_ratios(policy, reference)]
  weight = policy.weight or [1.0] * len(gaps)
  average = sum(w * gap for w, gap in zip(weight, gaps, strict=True)) / sum(weight)
  return max(least, beta * (1 + alpha * (average - mean)))


def token_means(answers: Answers, weight: Sequence[float] | None = None) -> list:
  """Negative log-likelihoods whose weighted mean over pairs is the weighted mean over tokens of the batch."""
  weight = weight or [1.0] * len(answers)
  tokens = sum(w * len(answer) for w, answer in zip(weight, answers, strict=True))
  return [-total * sum(weight) / tokens for total in sums(answers)]


# Means and gradients.


def weighted_mean(values, weight=None):
  """Sum of weight times value over the sum of weights."""
  weight = weight or [1.0] * len(values)
  return sum(w * v for w, v in zip(weight, values, strict=True) if w > 0) / sum(weight)


def gradients(value: Callable[[Any], Any], model: Any, field: str) -> list:
  """Derivatives of `value(model)`, a number, with respect to every number in a (nested) list of `model`."""

  def moved(table, path):
    if not path:
      return table + 1j * STEP
    return [moved(x, path[1:]) if i == path[0] else x for i, x in enumerate(table)]

  def walk(table, path):
    if isinstance(table, (list, tuple, np.ndarray)):
      return [walk(x, (*path, i)) for i, x in enumerate(table)]
    nudged = dataclasses.replace(model, **{field: moved(getattr(model, field), path)})
    return float(np.imag(value(nudged)) / STEP)

  return walk(getattr(model, field), ())
