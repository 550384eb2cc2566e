"""From plain lists of token log-probs, as the oracles and golden files have them, to the containers of a loss.

`Batch` packs answers as a row of training data has them, two examples a row, and says which slot holds what.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from loss_draws import kind_of
from oracle_parts import Pairs, Rankings, Singles

from dpojax.losses import LOSSES, loss_options
from dpojax.losses.divergences import get_divergence
from dpojax.losses.logps import RankedLogps, SingleLogps, TokenLogps, pair_logps, weighted_mean

PER_ROW = 2  # examples
DIVERGENCES = {
  "reverse_kl": "reverse_kl",
  "forward_kl": "forward_kl",
  "js_divergence": "jensen_shannon",
  "alpha_divergence": "alpha_divergence",
}


@dataclasses.dataclass(frozen=True)
class Batch:
  """Answers of examples as packed slots.

  Attributes:
    answers: [example][answer][token] log-probs; every example has as many answers, some may be without tokens.
  """

  answers: list

  @property
  def kinds(self) -> int:
    return len(self.answers[0])

  @functools.cached_property
  def places(self) -> list:
    """(row, slot, answer slot) of every token, in order."""
    places, filled = [], {}
    for example, answers in enumerate(self.answers):
      row, at = divmod(example, PER_ROW)
      for k, answer in enumerate(answers):
        for _ in answer:
          slot = filled.get(row, 0)
          places.append((row, slot, at * self.kinds + k))
          filled[row] = slot + 1
    return places

  @property
  def rows(self) -> int:
    return -(-len(self.answers) // PER_ROW)

  @property
  def slots(self) -> int:
    return max(slot for _, slot, _ in self.places) + 2  # an empty slot ends the longest row too

  def table(self, answers, dtype) -> np.ndarray:
    """[R, S] of any numbers in the form of `answers`; 0 in empty slots."""
    out = np.zeros((self.rows, self.slots), dtype)
    flat = [x for example in answers for answer in example for x in answer]
    for (row, slot, _), x in zip(self.places, flat, strict=True):
      out[row, slot] = x
    return out

  def nested(self, table) -> list:
    """The numbers of a [R, S] table in the form of `answers`."""
    flat = iter([float(table[row, slot]) for row, slot, _ in self.places])
    return [[[next(flat) for _ in answer] for answer in example] for example in self.answers]

  def tokens(self, table) -> TokenLogps:
    answer_of = np.full((self.rows, self.slots), PER_ROW * self.kinds, np.int32)
    for row, slot, answer in self.places:
      answer_of[row, slot] = answer
    return TokenLogps(table, answer_of, PER_ROW * self.kinds, self.kinds)


def batch_of(model) -> Batch:
  """The answers of an oracle's `Pairs`, `Singles` or `Rankings`; an odd number of examples gets an empty one."""
  if isinstance(model, Singles):
    other = model.mismatched or [[] for _ in model.answer]
    answers = [list(pair) for pair in zip(model.answer, other, strict=True)]
  elif isinstance(model, Rankings):
    answers = [list(ranking) for ranking in model.answers]
  else:
    kinds = [k for k in (model.gold, model.chosen, model.rejected) if k is not None]
    answers = [list(example) for example in zip(*kinds, strict=True)]
  if len(answers) % PER_ROW:
    answers.append([[] for _ in answers[0]])
  return Batch(answers)


def container(name, model, batch, tokens, dtype):
  """What the loss called `name` reads of a model whose token log-probs are `tokens`."""
  answers, count = kind_of(name), len(batch.answers)

  def column(values, fill=0.0, kind=dtype):
    return np.asarray(list(values) + [fill] * (count - len(values)), kind)

  weight = column(model.weight or [1.0] * count_of(model))
  sums, lengths = tokens.by_example(tokens.sums()), tokens.by_example(tokens.lengths())
  if answers == "unpaired":
    desirable = column(model.desirable, False, bool)
    mismatched = sums[:, 1] if model.mismatched is not None else None
    return SingleLogps(sums[:, 0], lengths[:, 0], desirable, weight, mismatched, tokens)
  if answers in ("triple", "ranking"):
    return RankedLogps(sums, lengths, weight, tokens=tokens)
  details = {"weight": weight}
  if model.margin is not None:
    details["margin"] = column(model.margin)
  if model.chosen_kl is not None:
    details |= dict(chosen_kl=column(model.chosen_kl), rejected_kl=column(model.rejected_kl))
  if model.prompt is not None and "prompt" in LOSSES[name].reads:
    details["prompt"] = column([sum(prompt) for prompt in model.prompt])
    details["prompt_length"] = column([len(prompt) for prompt in model.prompt], 0, np.int32)
  if model.reference_wrote_chosen is not None:
    details["opponent"] = jnp.where(column(model.reference_wrote_chosen, False, bool), sums[:, 0], sums[:, 1])
  return pair_logps(tokens, **details)


def count_of(model) -> int:
  return len(model.answer if isinstance(model, Singles) else getattr(model, "chosen", None) or model.answers)


def run(name, policy, reference=None, options=None, dtype=np.float64, change=None):
  """(values [B], their weighted mean, its derivatives by the policy's tokens in the form of the answers).

  Args:
    name: of the loss.
    policy, reference: `Pairs`, `Singles` or `Rankings` of token log-probs.
    options: of the loss, `f_divergence` and `f_alpha` under the oracles' names.
    change: applied to the token log-probs of either model.
  """
  if kind_of(name) == "pair" and policy.gold is not None:
    policy = dataclasses.replace(policy, gold=None)
    reference = reference and dataclasses.replace(reference, gold=None)
  batch, options = batch_of(policy), given(options or {}, dtype)
  change = change or (lambda tokens: tokens)
  frozen = ()
  if "reference" in LOSSES[name].reads:
    tokens = change(batch.tokens(batch.table(batch_of(reference).answers, dtype)))
    frozen = (container(name, reference, batch, tokens, dtype),)

  def mean(table):
    model = container(name, policy, batch, change(batch.tokens(table)), dtype)
    values = LOSSES[name].of_packed(model, *frozen, **options)
    return weighted_mean(values, model.weight), values

  (value, values), slopes = jax.value_and_grad(mean, has_aux=True)(jnp.asarray(batch.table(batch.answers, dtype)))
  assert values.dtype == dtype and slopes.dtype == dtype
  return np.asarray(values)[: count_of(policy)], float(value), batch.nested(np.asarray(slopes))


def given(options, dtype) -> dict:
  """Options as the training step gives them: arrays of the loss's dtype, the divergence as a function."""
  options = dict(options)
  alpha = options.pop("f_alpha", 0.5)
  divergence = DIVERGENCES[options.pop("f_divergence", "reverse_kl")]
  out = {name: jnp.asarray(value, dtype) for name, value in options.items()}
  if divergence != "reverse_kl":
    out["f_divergence"] = get_divergence(divergence, {"divergence_alpha": jnp.asarray(alpha, dtype)})
  return out


def ranked(data, model):
  """Gold, chosen, rejected of `Pairs`-like data as an oracle's `Pairs` with all three."""
  return Pairs(**{key: data[model][key] for key in ("chosen", "rejected", "gold") if key in data[model]})


__all__ = ["Batch", "Pairs", "Rankings", "Singles", "batch_of", "container", "given", "loss_options", "ranked", "run"]
