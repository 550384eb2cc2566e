"""Losses: pure functions from arrays to one value per example, found by name.

    from dpojax import losses
    losses.dpo(chosen, rejected, reference_chosen, reference_rejected, beta=0.1)

What holds for every loss. Log-probs are in nats, summed (not averaged) over the tokens of an answer, f32[B] (or any
float); a reference is frozen. Arrays may be lists, NumPy or JAX arrays, and all of one shape [B]; in losses of rankings,
those of answers are [B, K], best answer first. Shapes that do not fit raise `dpojax.errors.ShapeError`, which names them.
The result is f32[B], one value per example, unreduced. Options are single numbers, keyword only, and may be traced; their
defaults are the paper's where it has them. A loss that reads `weight` or `pairs_per_token` of the batch, or is coupled,
must be given the global batch or what is known of it.

Data:
  chosen, rejected: log-probs of the preferred and the other answer under the policy; of reward losses, their rewards.
  reference_chosen, reference_rejected: the same answers under the reference.
  chosen_length, rejected_length: tokens of the answers, integers.
  chosen_kl, rejected_kl: sum over an answer's positions of KL(reference || policy) of the next-token distributions.
  prompt, prompt_length: log-probs and number of the prompt's tokens but for the first, which nothing predicts.
  margin: by how much the chosen answer is known to be better, in units of the logit: beta times nats, or reward.
  logp, reference_logp: log-probs of a single answer, or [B, K] of a ranking's answers.
  length: [B, K] tokens of a ranking's answers; 0: there is no such answer.
  desirable: whether the single answer is a good one, booleans.
  mismatched, reference_mismatched: log-probs of another prompt's answer after this prompt.
  opponent: log-prob under the policy of whichever of the two answers the reference wrote.
  reward, present: [B, K] rewards of a ranking's answers, and which there are (all).
  label: what was observed of the chosen answer: 1 it won, 0 it lost, 1/2 a tie (1).
  weight: of each example (1). Those of weight 0 are left out of what a loss takes over the batch.
  pairs_per_token: sum of weights over the sum of weight times scored tokens, of the global batch (of these examples):
    what turns a mean over examples into a mean over tokens.

A loss of your own is registered where a config file or a program begins, and is then named like any other:

    @losses.register
    def squared_hinge(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.1, power=2.0): ...

    config.loss.name = "squared_hinge(power=3) + 0.1*sft"

To add one to dpojax, write the function in the file of its family, with `checked` and an example that runs, and name it in
`_losses`. Options are traced (but for `f_divergence`), so that changing them never recompiles.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax

from dpojax.errors import ConfigError
from dpojax.losses.aot import aot, aot_unpaired
from dpojax.losses.apo import apo_down, apo_zero, apo_zero_unpaired
from dpojax.losses.arrays import checked, checked_rankings, data_of, is_checked, options_of, unchecked
from dpojax.losses.classifiers import bco, bco_pair, nca_pair, sppo_hard
from dpojax.losses.dpo import cdpo, discopop, dpo, dpo_norm, dpop, exo_pair, robust_dpo, xpo
from dpojax.losses.foreign_names import explained_loss
from dpojax.losses.hinge import hinge
from dpojax.losses.ipo import ipo, ipo_sum
from dpojax.losses.kto import kto
from dpojax.losses.logps import Logps, arguments
from dpojax.losses.nll import preferred_ft, sft, unlikelihood
from dpojax.losses.parameters import check_own, filled
from dpojax.losses.ranking import plackett_luce_dpo
from dpojax.losses.reference_free import alphapo, cpo, orpo, simpo, tpo, tpo_l
from dpojax.losses.reward import all_pairs, bradley_terry, davidson, plackett_luce, rao_kupper
from dpojax.losses.tdpo import tdpo1, tdpo2
from dpojax.types import Answers

# What a loss reads, by a parameter that says so.
READS = {
  "reference_chosen": "reference",
  "reference_rejected": "reference",
  "reference_logp": "reference",
  "reference_mismatched": "reference",
  "margin": "margin",
  "chosen_kl": "token_kl",
  "rejected_kl": "token_kl",
  "prompt": "prompt",
  "prompt_length": "prompt",
  "mismatched": "mismatched",
  "opponent": "opponent",
  "shift": "shift",
}


@dataclasses.dataclass(frozen=True)
class Loss:
  """A loss and what it needs.

  Attributes:
    function: of plain arrays.
    answers: what its examples hold: PAIR (PairLogps), TRIPLE or RANKING (RankedLogps), or UNPAIRED (SingleLogps).
    of_rewards: it is given rewards, not log-probs: PAIR, or RANKING.
    coupled: a value depends on other examples, so it must see the global batch.
    of_ratios: policy and reference matter through their difference only, so `of_packed` may give log-ratios and a
      reference of zeros. Sums of log-probs would round at the size of the sums, log-ratios at their own.
  """

  function: Callable[..., jax.Array]
  answers: Answers = Answers.PAIR
  of_rewards: bool = False
  coupled: bool = False
  of_ratios: bool = False

  @property
  def name(self) -> str:
    return self.function.__name__

  @functools.cached_property
  def formula(self) -> Callable[..., jax.Array]:
    """The function without the check of its arguments: those made of packed batches fit by construction."""
    return unchecked(self.function)

  @functools.cached_property
  def data(self) -> tuple[str, ...]:
    """The names of the arrays it takes."""
    return data_of(self.function)

  @functools.cached_property
  def options(self) -> tuple[str, ...]:
    """The names of the options it takes, such as ("beta", "label_smoothing")."""
    return options_of(self.function)

  @functools.cached_property
  def reads(self) -> frozenset[str]:
    """Beyond the policy's log-probs: "reference", "margin" (of each pair), "token_kl", "prompt", "mismatched", "opponent"
    (which answer the reference wrote), "shift" (a running mean)."""
    return frozenset(READS[name] for name in (*self.data, *self.options) if name in READS)

  @property
  def compares(self) -> bool:
    """Whether a loss of pairs is about both answers; otherwise it is the likelihood of one."""
    return "rejected" in self.data

  def arguments(self, policy: Logps, reference: Logps | None = None) -> dict[str, Any]:
    """Its arrays, by name, of what two models say of a packed batch; `reference` is ignored where none is read."""
    given = arguments(policy, reference if "reference" in self.reads else None, of_ratios=self.of_ratios)
    found = {name: given[name] for name in self.data if name in given}
    return found if policy.weight is None or self.name in BUILT_IN else filled(found, policy.weight)

  def of_packed(self, policy: Logps, reference: Logps | None = None, **options) -> jax.Array:
    """f32[B] values of what two models say of a packed batch."""
    return self.function(**self.arguments(policy, reference), **options)


def _losses() -> Iterable[Loss]:
  for function in (dpo, cdpo, robust_dpo, dpo_norm, exo_pair, discopop, dpop, xpo, hinge, ipo, ipo_sum, tdpo1, tdpo2):
    yield Loss(function, of_ratios=True)
  for function in (nca_pair, bco_pair, sppo_hard, apo_zero, apo_down):
    yield Loss(function, of_ratios=True)
  yield Loss(aot, coupled=True)  # compares the policy's margins with the reference's, in an order of their own
  yield Loss(aot_unpaired, coupled=True, of_ratios=True)
  yield Loss(kto, Answers.UNPAIRED, coupled=True, of_ratios=True)
  for function in (apo_zero_unpaired, bco):
    yield Loss(function, Answers.UNPAIRED, of_ratios=True)
  yield Loss(plackett_luce_dpo, Answers.RANKING, of_ratios=True)
  for function in (orpo, simpo, alphapo, cpo):
    yield Loss(function)
  for function in (tpo, tpo_l):
    yield Loss(function, Answers.TRIPLE)
  for function in (unlikelihood, preferred_ft, sft):
    yield Loss(function)
  for function in (bradley_terry, rao_kupper, davidson):
    yield Loss(function, of_rewards=True)
  for function in (plackett_luce, all_pairs):
    yield Loss(function, Answers.RANKING, of_rewards=True)


LOSSES: dict[str, Loss] = {loss.name: loss for loss in _losses()}
BUILT_IN = frozenset(LOSSES)


def register(
  function: Callable[..., Any] | None = None,
  *,
  answers: Answers = Answers.PAIR,
  of_rewards: bool = False,
  coupled: bool = False,
  of_ratios: bool = False,
) -> Callable[..., Any]:
  """Makes a function of the user's a loss, under its own name; a decorator, with or without options.

  Its parameters say what it is given: data by the names above, and options, numbers with a default. Its arguments are
  checked as those of any loss (`losses.arrays.checked`). Registered again under the same name, as when a notebook's cell
  runs twice, the new function takes the old one's place.

  >>> @register(of_ratios=True)
  ... def cubed_margin(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.1):
  ...   return -((beta * (chosen - reference_chosen - rejected + reference_rejected)) ** 3)
  >>> get_loss("cubed_margin").options
  ('beta',)
  >>> _ = LOSSES.pop("cubed_margin")

  Args:
    function: of arrays and options, f32[B].
    answers, of_rewards, coupled, of_ratios: see `Loss`.

  Raises:
    ConfigError: the name is that of a loss of dpojax, a parameter is neither data of such answers nor an option with a default, or
      an option has the name of a number of dpojax.
  """
  if function is None:
    return functools.partial(register, answers=answers, of_rewards=of_rewards, coupled=coupled, of_ratios=of_ratios)
  name = check_own(function, BUILT_IN, answers=answers, of_rewards=of_rewards)
  if not is_checked(function):
    function = (checked_rankings if answers in (Answers.RANKING, Answers.TRIPLE) else checked)(function)
  LOSSES[name] = Loss(function, answers, of_rewards, coupled, of_ratios)
  return function


def get_loss(name: str) -> Loss:
  """The loss called `name`; ConfigError for an unknown name, because nothing may stand in for it."""
  try:
    return LOSSES[name]
  except KeyError:
    known = ", ".join(sorted(LOSSES))
    raise ConfigError(f"loss.name: unknown loss {name!r}; known are {known}{explained_loss(name, LOSSES)}") from None


def loss_options(name: str) -> tuple[str, ...]:
  """The options that the loss called `name` reads, such as ("beta", "label_smoothing")."""
  return get_loss(name).options
