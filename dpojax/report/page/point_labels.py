"""Where the settings of points are written beside them: as far as nothing lies there already."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from dpojax.report.page.chart import Row
from dpojax.terminal import width

Place = tuple[float, float]
WIDE, HIGH = 0.56, 1.0  # of a character (Chinese ones are two) and of a line, in font sizes
SIDES = ((1, 0), (-1, 0), (1, 0.8), (-1, -0.8), (1, -0.8), (-1, 0.8), (0, 1), (0, -1))  # right and down of the mark


def placed(
  texts: Sequence[Row],
  lines: Iterable[Sequence[Place]],
  points: Sequence[Place],
  *,
  size: Place,
  font: float,
  radius: float,
  sqrt: bool,
) -> list[Row]:
  """Those of the texts that have room beside their points, the first ones first, with "kl" and "reward" of their middles.

  Args:
    texts: {"text", "places"} and what else a row has; places: (kl, reward) of points beside any of which it may stand.
    lines: vertices (kl, reward) of what is drawn as a line: curves, error bars.
    points: (kl, reward) of all marks.
    size: width and height of the plot; `font`, `radius` of a mark: in the same unit.
    sqrt: the KL axis has a square-root scale.
  """
  lines = [list(line) for line in lines]
  every = [*points, *(vertex for line in lines for vertex in line)]
  if not every:
    return []
  to_plot, from_plot = _axes(every, size, sqrt)
  taken = [to_plot(x, y) for x, y in points]
  inked = [place for line in lines for place in _along([to_plot(x, y) for x, y in line])]
  found: list[Row] = []
  boxes: list[tuple[float, float, float, float]] = []
  for row in texts:
    wide, high = WIDE * font * width(row["text"]) / 2, HIGH * font / 2
    anchors = [to_plot(kl, reward) for kl, reward in row["places"]]
    for (x, y), (right, down) in ((anchor, side) for side in SIDES for anchor in anchors):
      at = x + right * (radius + 1 + wide), y + down * (radius + 1 + high)
      box = at[0] - wide, at[1] - high, at[0] + wide, at[1] + high
      inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
      free = not any(_within(box, place, 0.8 * radius) for place in taken) and not any(
        _within(box, p, 0.5) for p in inked
      )
      if inside and free and not any(_overlap(box, other) for other in boxes):
        boxes.append(box)
        kl, reward = from_plot(*at)
        found.append({name: value for name, value in row.items() if name != "places"} | {"kl": kl, "reward": reward})
        break
  return found


def _axes(places: Sequence[Place], size: Place, sqrt: bool) -> tuple[Callable, Callable]:
  """(kl, reward) -> (right, down), and back."""
  end, low, high = max(x for x, _ in places) or 1.0, min(y for _, y in places), max(y for _, y in places)
  tall = (high - low) or 1.0

  def to_plot(x: float, y: float) -> Place:
    fraction = max(0.0, x) / end
    return size[0] * (math.sqrt(fraction) if sqrt else fraction), size[1] * (high - y) / tall

  def from_plot(right: float, down: float) -> Place:
    fraction = max(0.0, right / size[0])
    return end * (fraction**2 if sqrt else fraction), high - tall * down / size[1]

  return to_plot, from_plot


def _along(line: Sequence[Place], step: float = 1.5) -> Iterable[Place]:
  for (x, y), (u, v) in itertools.pairwise(line):
    parts = max(1, math.ceil(math.hypot(u - x, v - y) / step))
    yield from ((x + (u - x) * i / parts, y + (v - y) * i / parts) for i in range(parts + 1))


def _within(box: tuple[float, float, float, float], place: Place, margin: float) -> bool:
  left, top, right, bottom = box
  return left - margin < place[0] < right + margin and top - margin < place[1] < bottom + margin


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
  return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
