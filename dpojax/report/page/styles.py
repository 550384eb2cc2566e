"""How each method is drawn: one colour and one shape everywhere on the page, a shade of it for each of its settings."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from dpojax.report.frontier import BEST_OF_N, REFERENCE, Point
from dpojax.report.methods import POLICIES, RECIPES, Method, methods_of, setting_order
from dpojax.report.page.shades import lightness_of, on_black, shade, shades
from dpojax.report.stages import Stage

# Told apart in light and dark, and by most who see colours otherwise (after Okabe and Ito 2008); hues 30 degrees apart or
# more, so that no shade of one looks like another.
PALETTE = ("#2f7fc1", "#e06c1f", "#1f9e77", "#b75fa5", "#b8901a", "#d1495b", "#7a6ff0", "#5f8f3a", "#1a9fb0")
ROUNDS = (0.0, -0.16, 0.12)  # lightness of a method's colour when all of the palette is used up, once and twice
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
GREY, BROWN = "#7d848e", "#8d6e63"
OWN = {BEST_OF_N: (BROWN, "square"), REFERENCE: (GREY, "diamond"), RECIPES["sft"]: (GREY, "circle")}
NO_CURVES = {"pairs", "best_of_n", "comparison"}  # recipes that take no steps


@dataclasses.dataclass(frozen=True)
class Name:
  """What a legend tells apart.

  Attributes:
    name: as the chart's data and its parameter `hidden` have it.
    colour: "#rrggbb".
    sign: a shape of Vega, or "line", "dashes", "ring".
    method: names of one method stand together on the page; there `short` is enough.
  """

  name: str
  colour: str
  sign: str = "circle"
  method: str = ""
  short: str = ""

  @property
  def dark(self) -> str:
    """Its colour on a dark page."""
    return on_black(self.colour)


@dataclasses.dataclass(frozen=True)
class Styles:
  """The names of a page, in its order: methods as their runs come, settings by their number.

  Attributes:
    methods: by series.
    settings: by series and knob.
    runs: the setting of each run that takes steps, by its folder.
  """

  methods: Mapping[str, Name]
  settings: Mapping[tuple[str, str], Name]
  runs: Mapping[pathlib.Path, Name]

  def ordered(self, names: Iterable[Name]) -> list[Name]:
    """Each of these settings once, in the page's order."""
    found = {name.name for name in names}
    return [name for name in self.settings.values() if name.name in found]


def styles_of(stages: Sequence[Stage], points: Sequence[Point] = ()) -> Styles:
  """The styles of these runs, and of what only `points` have: policies from outside, best of N, the reference."""
  of_run = methods_of(stages, {stage.recipe for stage in stages} - NO_CURVES)
  trained = {stage.path for stage in stages if stage.recipe in POLICIES}
  found = [of_run[stage.path] for stage in stages if stage.path in trained]
  known = {(method.series, method.knob) for method in found}
  found += [Method(p.series, p.knob) for p in points if p.group not in known]
  found += [of_run[stage.path] for stage in stages if stage.path in of_run and stage.path not in trained]
  series: dict[str, dict[str, Method]] = {}
  for method in found:
    series.setdefault(method.series, {}).setdefault(method.knob, method)
  methods: dict[str, Name] = {}
  settings: dict[tuple[str, str], Name] = {}
  for name in sorted(series, key=_rank):
    colour, shape = OWN.get(name) or _colour_and_shape(sum(other not in OWN for other in methods))
    methods[name] = Name(name, colour, shape)
    members = sorted(series[name].values(), key=setting_order)
    for method, own in zip(members, shades(colour, len(members)), strict=True):
      settings[name, method.knob] = Name(method.label, own, "circle", name, method.knob)
  return Styles(methods, settings, {path: settings[m.series, m.knob] for path, m in of_run.items()})


def _rank(series: str) -> int:
  """What nobody trained by preferences comes last."""
  return list(OWN).index(series) + 1 if series in OWN else 0


def _colour_and_shape(index: int) -> tuple[str, str]:
  rounds, i = divmod(index, len(PALETTE))
  colour, change = PALETTE[i], ROUNDS[rounds % len(ROUNDS)]
  return shade(colour, lightness_of(colour) + change) if change else colour, SHAPES[index % len(SHAPES)]
