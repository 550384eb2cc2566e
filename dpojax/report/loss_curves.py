"""Curves of every loss: its value and what it asks of the policy, against the margin.

Drawn at beta = 1, other options at their defaults but for `DRAWN`; the gradient weight is minus the slope, positive
where the loss asks for more margin.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpojax.losses import LOSSES, loss_options
from dpojax.report.figures import BLUE, GREEN, GREY, ORANGE, new_figure, title
from dpojax.types import Answers

PURPLE = "#7a5195"
REACH = 6.0  # margins from minus this to this
LEVEL = -7.0  # log-prob, in nats a token, of answers where there is no reference
TOKENS = 10
GLANCE = {"dpo": BLUE, "cdpo": GREEN, "robust_dpo": ORANGE, "hinge": PURPLE, "ipo_sum": "#b5892f"}

# At their defaults of dpop nothing but the penalty would be seen, of xpo nothing but DPO.
DRAWN = {"dpop": {"penalty": 4.0}, "xpo": {"alpha": 0.1}}

# By what a loss reads, and whether that is rewards.
AXIS = {
  (Answers.PAIR, False): "β · margin",
  (Answers.TRIPLE, False): "β · margin",
  (Answers.UNPAIRED, False): "β · log-ratio of the answer",
  (Answers.RANKING, False): "β · lead of each answer over the next",
  (Answers.PAIR, True): "reward of chosen less that of rejected",
  (Answers.RANKING, True): "lead of each answer over the next",
}
MARGIN = AXIS[Answers.PAIR, False]


@dataclasses.dataclass(frozen=True)
class Curve:
  """One line of a plot: f64[N] loss and gradient weight at the margins x, and what is moved."""

  label: str
  x: np.ndarray
  loss: np.ndarray
  weight: np.ndarray


def curves(name: str, points: int = 241) -> list[Curve]:
  """The lines that show the loss called `name`; the first is the usual one."""
  x = jnp.linspace(-REACH, REACH, points)
  lines: list[Curve] = []
  for label, at in _lines(name).items():
    loss, slope = jax.jit(jax.vmap(jax.value_and_grad(at)))(x)
    lines.append(Curve(label, *(np.asarray(v, np.float64) for v in (x, loss, -slope))))
  if len(lines) == 3 and _kind(name) == (Answers.PAIR, False):
    # Losses of the margin alone look the same whichever answer moves, others whichever one moves alone.
    both, chosen, rejected = lines
    if _same(both, chosen) and _same(both, rejected):
      return [dataclasses.replace(both, label=name)]
    if _same(chosen, rejected):
      return [both, dataclasses.replace(chosen, label="one answer moves")]
  return lines


def draw_loss(name: str) -> Figure:
  """Loss and gradient weight of one loss, with DPO's in grey."""
  figure, axes = new_figure(2)
  assert figure is not None
  figure.set_size_inches(8.2, 2.5)
  lines = curves(name)
  for line, colour in zip(lines, (BLUE, ORANGE, GREEN, PURPLE), strict=False):
    _draw(axes, line, colour, line.label, linewidth=1.8)
  limits = [axis.get_ylim() for axis in axes]
  if name not in ("dpo", "preferred_ft", "sft") and AXIS[_kind(name)] == MARGIN:
    _draw(axes, curves("dpo")[0], GREY, "DPO", linewidth=1.2, linestyle=(0, (3, 2)))
  for axis, (low, high) in zip(axes, limits, strict=True):
    axis.set_ylim(low, high)
    axis.set_xlabel(AXIS[_kind(name)], fontsize=9)
  if limits[1][1] - limits[1][0] < 0.2:  # a constant weight is no detail to be enlarged
    axes[1].set_ylim(0, 1.5 * limits[1][1])
  if len(axes[0].get_lines()) > 1:
    axes[0].legend(frameon=False, fontsize=8)
  return figure


def draw_glance() -> Figure:
  """How DPO, conservative and robust DPO, the hinge and IPO differ."""
  figure, axes = new_figure(2)
  assert figure is not None
  figure.set_size_inches(9.2, 3.6)
  for name, colour in GLANCE.items():
    _draw(axes, curves(name)[0], colour, name, linewidth=1.8)
  axes[0].set_ylim(-1, 7)
  axes[1].set_ylim(-1, 2)
  for axis in axes:
    axis.set_xlabel(MARGIN, fontsize=9)
  axes[0].legend(frameon=False, fontsize=9)
  return figure


def _draw(axes: list[Axes], line: Curve, colour: str, label: str, **style) -> None:
  for axis, values, text in zip(axes, (line.loss, line.weight), ("loss", "gradient weight"), strict=True):
    axis.plot(line.x, values, color=colour, label=label, **style)
    title(axis, text)


def _same(one: Curve, other: Curve) -> bool:
  return np.allclose(one.loss, other.loss, atol=1e-5) and np.allclose(one.weight, other.weight, atol=1e-5)


def _lines(name: str) -> dict[str, Callable]:
  """What is moved -> the loss at a margin, f32[] -> f32[]."""
  kinds = {
    (Answers.PAIR, False): _pair,
    (Answers.TRIPLE, False): _triple,
    (Answers.UNPAIRED, False): _unpaired,
    (Answers.RANKING, False): _ranking,
    (Answers.PAIR, True): _pair_rewards,
    (Answers.RANKING, True): _ranked_rewards,
  }
  return kinds[_kind(name)](name)


def _kind(name: str) -> tuple[Answers, bool]:
  return LOSSES[name].answers, LOSSES[name].of_rewards


def _value(name: str, **given) -> jax.Array:
  """The loss of one example; of the arrays `given` it takes those that it reads."""
  options = {"beta": 1.0} if "beta" in loss_options(name) else {}
  data = {key: value for key, value in given.items() if key in LOSSES[name].data}
  return LOSSES[name].function(**data, **options, **DRAWN.get(name, {}))[0]


def _pair(name: str) -> dict[str, Callable]:
  loss, zero = LOSSES[name], jnp.zeros(1)
  per_token = name in ("dpo_norm", "ipo", "orpo", "simpo", "alphapo")

  def at(chosen, rejected, chosen_kl=0.0, rejected_kl=0.0, opponent=0.0):
    length = jnp.full(1, TOKENS)
    start = 0.0 if "reference" in loss.reads else LEVEL * TOKENS
    w, l = (start + jnp.reshape(x, (1,)) * (TOKENS if per_token else 1) for x in (chosen, rejected))  # noqa: E741
    return _value(
      name,
      chosen=w,
      rejected=l,
      reference_chosen=zero,
      reference_rejected=zero,
      chosen_length=length,
      rejected_length=length,
      chosen_kl=zero + chosen_kl,
      rejected_kl=zero + rejected_kl,
      opponent=zero + opponent,
    )

  if "token_kl" in loss.reads:
    return {
      "no KL": lambda m: at(m / 2, -m / 2),
      "2 nats of KL along the rejected answer": lambda m: at(m / 2, -m / 2, 0.0, 2.0),
    }
  if "opponent" in loss.reads:
    return {
      "the reference wrote the rejected answer": lambda m: at(m / 2, -m / 2, opponent=-m / 2),
      "the reference wrote the chosen answer": lambda m: at(m / 2, -m / 2, opponent=m / 2),
    }
  if not loss.compares:
    return {"chosen moves": lambda m: at(m, 0.0)}
  return {
    "both answers move": lambda m: at(m / 2, -m / 2),
    "chosen moves": lambda m: at(m, jnp.zeros_like(m)),
    "rejected moves": lambda m: at(jnp.zeros_like(m), -m),
  }


def _triple(name: str) -> dict[str, Callable]:
  length = jnp.full((1, 3), TOKENS)
  scale = TOKENS if name == "tpo_l" else 1

  def at(m):
    move = jnp.stack([jnp.zeros_like(m), m / 2, -m / 2])[None]
    return _value(name, logp=LEVEL * TOKENS + scale * move, length=length)

  return {"chosen and rejected move": at}


def _unpaired(name: str) -> dict[str, Callable]:
  def at(x, desirable):
    logp, zero = jnp.reshape(x, (1,)), jnp.zeros(1)
    of_reference = dict(reference_logp=zero, mismatched=zero, reference_mismatched=zero)
    return _value(name, logp=logp, desirable=jnp.full(1, desirable), **of_reference)

  return {"desirable": lambda x: at(x, True), "undesirable": lambda x: at(x, False)}


def _steps(m, answers: int) -> jax.Array:
  """[1, K] scores of a ranking in which every answer leads the next by m."""
  return m * (answers - 1 - jnp.arange(answers, dtype=jnp.float32))[None]


def _ranking(name: str) -> dict[str, Callable]:
  def of(answers):
    length = jnp.ones((1, answers), jnp.int32)
    zero = jnp.zeros((1, answers))
    return lambda m: _value(name, logp=_steps(m, answers), reference_logp=zero, length=length)

  return {f"{answers} answers": of(answers) for answers in (2, 3, 4)}


def _pair_rewards(name: str) -> dict[str, Callable]:
  def at(m, label):
    half = jnp.reshape(m, (1,)) / 2
    return _value(name, chosen=half, rejected=-half, label=jnp.full(1, label))

  return {"chosen won": lambda m: at(m, 1.0), "a tie": lambda m: at(m, 0.5)}


def _ranked_rewards(name: str) -> dict[str, Callable]:
  def of(answers):
    return lambda m: _value(name, reward=_steps(m, answers))

  return {f"{answers} answers": of(answers) for answers in (2, 3, 4)}
