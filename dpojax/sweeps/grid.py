"""Grids: from 'loss.beta=0.05,0.1' to the points of a sweep, each checked before the first starts."""

import dataclasses
import itertools
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpojax.config.keys import parse, replace_values
from dpojax.config.schema import RunConfig
from dpojax.errors import ConfigError

Grid = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Point:
  """One point: its folder's name, the settings it changes, and its whole config."""

  name: str
  values: Mapping[str, Any]
  config: RunConfig


def parse_grid(texts: Sequence[str]) -> Grid:
  """Values by dotted key, from texts such as "loss.beta=0.05,0.1"; several texts mean their product.

  Raises:
    ConfigError: no '=', an unknown key, a value of the wrong type, or a key or value given twice.
  """
  grid: dict[str, tuple[Any, ...]] = {}
  for text in texts:
    key, equals, values = text.partition("=")
    if not equals or not values.strip():
      raise ConfigError(f"--grid {text!r}: wants KEY=VALUE,VALUE,..., such as loss.beta=0.05,0.1")
    if key in grid:
      raise ConfigError(f"--grid {text!r}: {key} is given twice; write all its values in one --grid")
    try:
      grid[key] = tuple(parse(key, value.strip()) for value in values.split(","))
    except ConfigError as error:
      raise ConfigError(f"--grid {text!r}: {error}") from None
    if len(set(grid[key])) < len(grid[key]):
      raise ConfigError(f"--grid {text!r}: a value is there twice")
  if not grid:
    raise ConfigError("--grid is missing: give the values to try, such as --grid loss.beta=0.05,0.1")
  return grid


def make_points(config: RunConfig, grid: Grid, check: Callable[[RunConfig], None]) -> list[Point]:
  """The product of the grid's values over `config`, the last key fastest.

  Args:
    check: raises ConfigError for settings that cannot run.

  Raises:
    ConfigError: a point fails the check; the message names the point.
  """
  points = []
  for combination in itertools.product(*grid.values()):
    values = dict(zip(grid, combination, strict=True))
    # A value may be a path: quoted, it is one folder's name.
    name = ",".join(f"{key}={urllib.parse.quote(str(value), safe='')}" for key, value in values.items())
    try:
      changed = replace_values(config, values)
      check(changed)
    except ConfigError as error:
      raise ConfigError(f"point {name}: {error}") from None
    points.append(Point(name, values, changed))
  return points
