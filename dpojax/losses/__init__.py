"""Preference losses: pure functions from log-probs to one value per example, found by name.

A loss is `f(policy[, reference], *, beta=..., ...) -> f32[B]`, unreduced. To add one, write the function in the file
of its family and name it in `LOSSES`; its keyword arguments are the options it reads from the config's `loss` section,
traced (but for `f_divergence`), so that changing them never recompiles. Their defaults are its paper's.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable

import jax

from dpojax.errors import ConfigError
from dpojax.losses.aot import aot, aot_unpaired
from dpojax.losses.apo import apo_down, apo_zero, apo_zero_unpaired
from dpojax.losses.classifiers import bco, bco_pair, nca_pair, sppo_hard
from dpojax.losses.dpo import cdpo, discopop, dpo, dpo_norm, dpop, exo_pair, robust_dpo
from dpojax.losses.hinge import hinge
from dpojax.losses.ipo import ipo, ipo_sum
from dpojax.losses.kto import kto
from dpojax.losses.nll import preferred_ft, sft, unlikelihood
from dpojax.losses.ranking import plackett_luce_dpo
from dpojax.losses.reference_free import alphapo, cpo, orpo, simpo, tpo, tpo_l
from dpojax.losses.reward import all_pairs, bradley_terry, davidson, plackett_luce, rao_kupper
from dpojax.losses.tdpo import tdpo1, tdpo2


@dataclasses.dataclass(frozen=True)
class Loss:
  """A loss and what it needs.

  Attributes:
    function: f(policy[, reference], *, options) -> f32[B]; of a reward loss f(rewards, *, options).
    answers: what it is about: "pair" (PairLogps), "triple" and "ranking" (RankedLogps), "single" (SingleLogps),
      "pair_rewards" (PairRewards) or "ranked_rewards" (RankedRewards).
    coupled: a value depends on other examples, so it must see the global batch.
    reads: beyond the policy's log-probs: "reference" (its second argument), "margin" (of each pair), "token_kl",
      "prompt", "mismatched", "shift" (a running mean).
    compares: it is about both answers of a pair; otherwise the likelihood of one.
  """

  function: Callable[..., jax.Array]
  answers: str = "pair"
  coupled: bool = False
  reads: frozenset[str] = frozenset()
  compares: bool = True

  @property
  def name(self) -> str:
    return self.function.__name__


def _losses() -> Iterable[Loss]:
  of_margin = frozenset({"reference", "margin"})
  for function in (dpo, cdpo, robust_dpo, dpo_norm, exo_pair, discopop, dpop, hinge, ipo, ipo_sum):
    yield Loss(function, reads=of_margin)
  for function in (tdpo1, tdpo2):
    yield Loss(function, reads=of_margin | {"token_kl"})
  for function in (nca_pair, bco_pair, sppo_hard, apo_zero, apo_down):
    yield Loss(function, reads=frozenset({"reference"}))
  for function in (aot, aot_unpaired):
    yield Loss(function, coupled=True, reads=frozenset({"reference"}))
  yield Loss(kto, "single", coupled=True, reads=frozenset({"reference", "mismatched"}))
  yield Loss(apo_zero_unpaired, "single", reads=frozenset({"reference"}))
  yield Loss(bco, "single", reads=frozenset({"reference", "shift"}))
  yield Loss(plackett_luce_dpo, "ranking", reads=frozenset({"reference"}))
  yield Loss(orpo, reads=frozenset({"margin", "prompt"}))
  for function in (simpo, alphapo, cpo):
    yield Loss(function, reads=frozenset({"margin"}))
  for function in (tpo, tpo_l):
    yield Loss(function, "triple")
  yield Loss(unlikelihood)
  for function in (preferred_ft, sft):
    yield Loss(function, compares=False)
  for function in (bradley_terry, rao_kupper, davidson):
    yield Loss(function, "pair_rewards", reads=frozenset({"margin"}))
  for function in (plackett_luce, all_pairs):
    yield Loss(function, "ranked_rewards")


LOSSES: dict[str, Loss] = {loss.name: loss for loss in _losses()}


def get_loss(name: str) -> Loss:
  """The loss called `name`; ConfigError for an unknown name, because nothing may stand in for it."""
  try:
    return LOSSES[name]
  except KeyError:
    raise ConfigError(f"loss.name: unknown loss {name!r}; known are {', '.join(sorted(LOSSES))}") from None


def loss_options(name: str) -> tuple[str, ...]:
  """The keyword options that the loss called `name` reads, such as ("beta", "label_smoothing")."""
  parameters = inspect.signature(get_loss(name).function).parameters.values()
  return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
