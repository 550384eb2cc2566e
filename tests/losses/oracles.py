"""Every preference loss in float64, written down from its formula: the oracle of `dpojax.losses`.

A function takes what the policy and the reference say of a batch (`Pairs`, `Singles`, `Rankings`) and gives one
number for each pair (answer, ranking). `ORACLES` has them by name. `test_oracles_against_trl.py` compares them with
TRL, `test_oracles.py` with theorems. The reward losses are in `reward_oracles.py`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from oracle_parts import (
  Rankings,
  Singles,
  at_least_zero,
  both_ratios,
  held,
  lengths,
  log1mexp,
  log_ratios,
  log_sum_exp,
  logits,
  loss_l,
  margins,
  means,
  scores,
  sigmoid,
  smoothed,
  softplus,
  sums,
  token_means,
  weighted_mean,
)

# Losses of pairs.


def dpo(policy, reference, *, beta, label_smoothing=0.0, **divergence):
  return [smoothed(x, label_smoothing) for x in logits(policy, reference, beta, divergence)]


def cdpo(policy, reference, *, beta, label_smoothing=0.1, **divergence):
  return dpo(policy, reference, beta=beta, label_smoothing=label_smoothing, **divergence)


def robust_dpo(policy, reference, *, beta, label_smoothing=0.1, **divergence):
  e = label_smoothing
  return [((1 - e) * loss_l(x) - e * loss_l(-x)) / (1 - 2 * e) for x in logits(policy, reference, beta, divergence)]


def averaged(policy, reference, beta, divergence) -> list:
  """beta (s(a) / |y_w| - s(b) / |y_l|) - margin."""
  each = zip(scores(policy, reference, divergence), lengths(policy), margins(policy), strict=True)
  return [beta * (a / w - b / l) - margin for (a, b), (w, l), margin in each]  # noqa: E741


def ipo(policy, reference, *, beta, **divergence):
  """With a margin the target becomes (1/2 + margin) / beta."""
  return [(x / beta - 1 / (2 * beta)) ** 2 for x in averaged(policy, reference, beta, divergence)]


def ipo_sum(policy, reference, *, beta, **divergence):
  return [(x / beta - 1 / (2 * beta)) ** 2 for x in logits(policy, reference, beta, divergence)]


def hinge(policy, reference, *, beta, **divergence):
  return [at_least_zero(1 - x) for x in logits(policy, reference, beta, divergence)]


def dpo_norm(policy, reference, *, beta, **divergence):
  return [loss_l(x) for x in averaged(policy, reference, beta, divergence)]


def exo_pair(policy, reference, *, beta, label_smoothing=1e-3, **divergence):
  right, wrong = np.log(1 - label_smoothing), np.log(label_smoothing)
  return [
    sigmoid(x) * (-loss_l(x) - right) + sigmoid(-x) * (-loss_l(-x) - wrong)
    for x in logits(policy, reference, beta, divergence)
  ]


def nca_pair(policy, reference, *, beta):
  return [loss_l(beta * a) + loss_l(-beta * a) / 2 + loss_l(-beta * b) / 2 for a, b in both_ratios(policy, reference)]


def bco_pair(policy, reference, *, beta, delta=0.0):
  return [loss_l(beta * a - delta) + loss_l(delta - beta * b) for a, b in both_ratios(policy, reference)]


def sppo_hard(policy, reference, *, beta):
  target = 1 / (2 * beta)
  return [(a - target) ** 2 + (b + target) ** 2 for a, b in both_ratios(policy, reference)]


def transported(above, below, weight, loss) -> list:
  """Mean of loss(quantile of `above` - same quantile of `below`) over the mass that each value of `above` covers.

  Weights are masses. With equal ones the i-th smallest of either side meet. A value of weight 0 covers nothing: 0.
  """
  weight = weight or [1.0] * len(above)
  upper, lower = (
    [[weight[i], i] for i in sorted(range(len(side)), key=lambda i, side=side: held(side[i])) if weight[i] > 0]
    for side in (above, below)
  )
  values, total = [0.0] * len(above), sum(weight)
  while upper and lower:
    (have, i), (want, j) = upper[0], lower[0]
    mass = min(have, want)
    values[i] = values[i] + mass / weight[i] * loss(above[i] - below[j])
    for queue in (upper, lower):
      queue[0][0] -= mass
      if queue[0][0] <= 1e-12 * total:
        queue.pop(0)
  return values


def aot(policy, reference, *, beta, label_smoothing=0.0):
  """The value of a pair is that of its margin's place among the policy's."""
  ours, theirs = (
    [w - l for w, l in zip(sums(model.chosen), sums(model.rejected), strict=True)]  # noqa: E741
    for model in (policy, reference)
  )
  return transported(ours, theirs, policy.weight, lambda d: smoothed(beta * d, label_smoothing))


def aot_unpaired(policy, reference, *, beta, label_smoothing=0.0):
  """The value of a pair is that of its chosen answer's place among the chosen ones."""
  chosen, rejected = zip(*both_ratios(policy, reference), strict=True)
  return transported(chosen, rejected, policy.weight, lambda d: smoothed(beta * d, label_smoothing))


def apo_zero(policy, reference, *, beta):
  return [sigmoid(-beta * a) + sigmoid(beta * b) for a, b in both_ratios(policy, reference)]


def apo_down(policy, reference, *, beta):
  return [sigmoid(beta * a) + sigmoid(-beta * (a - b)) for a, b in both_ratios(policy, reference)]


def discopop(policy, reference, *, beta, tau=0.05, **divergence):
  x_all = logits(policy, reference, beta, divergence)
  return [sigmoid(-x / tau) * loss_l(x) + np.exp(-x - softplus(-x / tau)) for x in x_all]


def dpop(policy, reference, *, beta, lam=50.0):
  both = zip(both_ratios(policy, reference), margins(policy), strict=True)
  return [loss_l(beta * (a - b - lam * at_least_zero(-a)) - margin) for (a, b), margin in both]


def xpo(policy, reference, *, beta, alpha, **divergence):
  """To DPO comes alpha log pi of the answer that the reference wrote."""
  sides = zip(policy.chosen, policy.rejected, policy.reference_wrote_chosen, strict=True)
  written = sums([chosen if first else rejected for chosen, rejected, first in sides])
  return [x + alpha * y for x, y in zip(dpo(policy, reference, beta=beta, **divergence), written, strict=True)]


def tdpo1(policy, reference, *, beta):
  both = zip(both_ratios(policy, reference), policy.chosen_kl, policy.rejected_kl, margins(policy), strict=True)
  return [loss_l(beta * (a - b + kw - kl) - margin) for (a, b), kw, kl, margin in both]


def tdpo2(policy, reference, *, beta, alpha=0.5):
  both = zip(both_ratios(policy, reference), policy.chosen_kl, policy.rejected_kl, margins(policy), strict=True)
  return [loss_l(beta * (a - b + alpha * (held(kw) - kl)) - margin) for (a, b), kw, kl, margin in both]


def average_pairs(policy):
  """(mean log-prob of the chosen answer, of the rejected one, margin) of every pair."""
  return zip(means(policy.chosen), means(policy.rejected), margins(policy), strict=True)


def orpo(policy, reference=None, *, beta, prompt_too=True):
  """beta is lambda of the paper. The likelihood term is over prompt and chosen answer, or over the answer only."""
  values = []
  for w, l, margin in average_pairs(policy):  # noqa: E741
    values.append(beta * loss_l((w - log1mexp(w)) - (l - log1mexp(l)) - margin))
  text = [[*p, *y] for p, y in zip(policy.prompt, policy.chosen, strict=True)] if prompt_too else policy.chosen
  return [x + nll for x, nll in zip(values, token_means(text, policy.weight), strict=True)]


def simpo(policy, reference=None, *, beta=2.0, gamma=1.0):
  return [loss_l(beta * (w - l) - gamma - margin) for w, l, margin in average_pairs(policy)]  # noqa: E741


def alphapo(policy, reference=None, *, beta=2.5, gamma=0.1, alpha=0.25):
  def reward(mean):
    return (1 - np.exp(-alpha * mean)) / alpha if alpha else mean

  return [
    loss_l(beta * (reward(w) - reward(l)) - gamma - margin)
    for w, l, margin in average_pairs(policy)  # noqa: E741
  ]


def cpo(policy, reference=None, *, beta=0.1, label_smoothing=0.0, alpha=1.0):
  each = zip(sums(policy.chosen), sums(policy.rejected), margins(policy), strict=True)
  values = [smoothed(beta * (w - l) - margin, label_smoothing) for w, l, margin in each]  # noqa: E741
  return [x + alpha * nll for x, nll in zip(values, token_means(policy.chosen, policy.weight), strict=True)]


def tpo(policy, reference=None, *, beta=0.01, label_smoothing=0.0, alpha=1.0):
  triples = zip(sums(policy.chosen), sums(policy.rejected), token_means(policy.gold, policy.weight), strict=True)
  return [smoothed(beta * (w - l), label_smoothing) + alpha * nll for w, l, nll in triples]  # noqa: E741


def tpo_l(policy, reference=None, *, beta=0.01, label_smoothing=0.0, gamma=0.5, alpha=1.0):
  triples = zip(means(policy.chosen), means(policy.rejected), token_means(policy.gold, policy.weight), strict=True)
  return [smoothed(beta * (w - l) - gamma, label_smoothing) + alpha * nll for w, l, nll in triples]  # noqa: E741


def unlikelihood(policy, reference=None, *, alpha=1.0):
  return [-w + alpha * l for w, l in zip(sums(policy.chosen), sums(policy.rejected), strict=True)]  # noqa: E741


def preferred_ft(policy, reference=None):
  return [-w for w in sums(policy.chosen)]


def sft(policy, reference=None):
  return token_means(policy.chosen, policy.weight)


# Losses of single answers and of rankings.


def kto_z(policy: Singles, reference: Singles) -> float:
  """Weighted mean over the batch of the mismatched log-ratios, not below 0; held constant."""
  assert policy.mismatched is not None and reference.mismatched is not None
  ratios = [held(x) for x in log_ratios(policy.mismatched, reference.mismatched)]
  return max(0.0, weighted_mean(ratios, policy.weight))


def by_side(policy: Singles, reference: Singles, desirable: Callable, undesirable: Callable) -> list:
  both = zip(log_ratios(policy.answer, reference.answer), policy.desirable, strict=True)
  return [desirable(x) if good else undesirable(x) for x, good in both]


def kto(policy, reference, *, beta, desirable_weight=1.0, undesirable_weight=1.0):
  z, up, down = kto_z(policy, reference), desirable_weight, undesirable_weight
  return by_side(policy, reference, lambda a: up * sigmoid(-beta * (a - z)), lambda b: down * sigmoid(-beta * (z - b)))


def apo_zero_unpaired(policy, reference, *, beta, desirable_weight=1.0, undesirable_weight=1.0):
  up, down = desirable_weight, undesirable_weight
  return by_side(policy, reference, lambda a: up * sigmoid(-beta * a), lambda b: down * sigmoid(beta * b))


def bco(policy, reference, *, beta, delta):
  """Unpaired BCO, arXiv:2404.04656, with the reward shift given."""
  return by_side(policy, reference, lambda a: loss_l(beta * a - delta), lambda b: loss_l(delta - beta * b))


def bco_delta(batches: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
  """BCO's shift at the last of these batches of rewards beta (policy - reference), (desirable, undesirable).

  Of a batch, half the sum of the two means; over batches the mean of all so far, the last included. With as many
  answers of either kind in every batch it is the mean of all rewards so far, which is what TRL's BCOTrainer took.
  """
  return float(np.mean([(np.mean(desirable) + np.mean(undesirable)) / 2 for desirable, undesirable in batches]))


def plackett_luce_dpo(policy: Rankings, reference: Rankings, *, beta):
  values = []
  for answers, frozen in zip(policy.answers, reference.answers, strict=True):
    present = [(p, r) for p, r in zip(answers, frozen, strict=True) if len(p)]
    rewards = [beta * x for x in log_ratios(*zip(*present, strict=True))]
    values.append(sum(log_sum_exp(rewards[k:]) - rewards[k] for k in range(len(rewards))))
  return values


PAIRED = (
  *(dpo, cdpo, robust_dpo, ipo, ipo_sum, hinge, dpo_norm, exo_pair, nca_pair, bco_pair, sppo_hard, aot, aot_unpaired),
  *(apo_zero, apo_down, discopop, dpop, xpo, tdpo1, tdpo2, orpo, simpo, alphapo, cpo, tpo, tpo_l, unlikelihood),
  *(preferred_ft, sft),
)
SINGLE = (kto, apo_zero_unpaired, bco)
ORACLES: dict[str, Callable] = {f.__name__: f for f in (*PAIRED, *SINGLE, plackett_luce_dpo)}
