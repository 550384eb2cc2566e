"""Where an axis of square roots has ticks: at round numbers about equally far apart, however far it reaches."""

import itertools
import math

import altair as alt

ROOM = 1 / 18  # of the axis, between two ticks
DECADE = ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 6, 8), (1, 2, 4, 6, 8), (1, 2, 5), (1, 5), (1,))  # fmt: skip
REACH = [m * 10.0**k for k in range(-2, 4) for m in DECADE[0]]  # ends of an axis that have ticks of their own


def sqrt_ticks(end: float) -> list[float]:
  """Ticks of a square-root axis from 0 to `end`, rising.

  >>> sqrt_ticks(9.0)
  [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
  """
  gap = ROOM * math.sqrt(end) * (1 - 1e-9)
  power = math.floor(math.log10(end) + 1e-9)
  found: list[float] = []  # of the decades from `power` upwards
  while True:
    above = found[:1] or [10.0 ** (power + 1)]
    for digits in DECADE:
      own = [round(d * 10.0**power, 12) for d in digits if d * 10.0**power <= end * (1 + 1e-9)]
      roots = [math.sqrt(tick) for tick in (*own, *(above if above[0] <= end else []))]
      if all(b - a >= gap for a, b in itertools.pairwise(roots)):
        break
    else:
      return [0.0, *found]
    if math.sqrt(own[0]) < gap:
      return [0.0, *found]
    found, power = [*own, *found], power - 1


def sqrt_values() -> alt.ExprRef:
  """The ticks of the x axis for its own end, which changes as a reader hides methods."""
  cases = "".join(f"domain('x')[1] <= {end:g} ? {sqrt_ticks(end)} : " for end in REACH)
  return alt.ExprRef(f"{cases}{sqrt_ticks(10 * REACH[-1])}")
