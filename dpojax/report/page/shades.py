"""Shades of a colour: the same hue at another lightness, in OKLab (Ottosson 2020), where equal steps look equal."""

from collections.abc import Sequence

Triple = tuple[float, float, float]
LEAST, MOST = 0.40, 0.74  # lightness of shades on white
LEAST_ON_BLACK, MOST_ON_BLACK = 0.55, 0.82
SPREAD = 0.30  # between the first and the last of several shades


def shade(colour: str, lightness: float) -> str:
  """The colour "#rrggbb" at a lightness in [0, 1]; as strong as sRGB has it there.

  >>> shade("#2f7fc1", 0.0), shade("#2f7fc1", 1.0)
  ('#000000', '#ffffff')
  """
  _, a, b = _to_oklab(colour)
  found = _to_linear((lightness, a, b))
  while max(found) > 1 + 1e-6 or min(found) < -1e-6:  # not in sRGB: less of the hue
    a, b = 0.96 * a, 0.96 * b
    found = _to_linear((lightness, a, b)) if abs(a) + abs(b) > 1e-3 else (lightness**3,) * 3
  return "#" + "".join(f"{round(255 * _encoded(min(1.0, max(0.0, x)))):02x}" for x in found)


def lightness_of(colour: str) -> float:
  """The OKLab lightness of "#rrggbb": 0 of black, 1 of white."""
  return _to_oklab(colour)[0]


def shades(colour: str, count: int) -> list[str]:
  """`count` shades from light to dark around the colour; itself where it is one."""
  if count == 1:
    return [colour]
  middle = min(MOST - SPREAD / 2, max(LEAST + SPREAD / 2, lightness_of(colour)))
  return [shade(colour, middle + SPREAD * (0.5 - i / (count - 1))) for i in range(count)]


def on_black(colour: str) -> str:
  """The shade of a colour that is seen as well on black as the colour on white."""
  fraction = min(1.0, max(0.0, (lightness_of(colour) - LEAST) / (MOST - LEAST)))
  return shade(colour, LEAST_ON_BLACK + fraction * (MOST_ON_BLACK - LEAST_ON_BLACK))


def _to_oklab(colour: str) -> Triple:
  r, g, b = (_decoded(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
  long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
  medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
  short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
  return (
    0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
    1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
    0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
  )


def _to_linear(lab: Sequence[float]) -> Triple:
  lightness, a, b = lab
  long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
  medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
  short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
  return (
    4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
    -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
    -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
  )


def _decoded(value: float) -> float:
  return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _encoded(value: float) -> float:
  return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
