"""Grids and lists of points: from 'loss.beta=0.05,0.1' to the experiments of a sweep, checked before the first starts."""

import dataclasses
import itertools
import json
import pathlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpojax.config.experiment import ALONE, Experiment, sources
from dpojax.config.keys import fields_by_key, parse
from dpojax.config.record import identity_settings
from dpojax.errors import ConfigError

Values = Mapping[str, Any]
Grid = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """One point: its name, the settings it changes, its stages, and the folder of each.

  Stages that come out the same at several points have one folder.
  """

  name: str
  values: Values
  experiment: Experiment
  folders: Mapping[str, pathlib.Path]


def parse_grid(texts: Sequence[str], stages: Sequence[str] = ()) -> Grid:
  """Values by dotted key, from texts such as "loss.beta=0.05,0.1"; several texts mean their product.

  Args:
    texts: as given.
    stages: names of the experiment's stages, which a key may begin with.

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
    first, _, inner = key.partition(".")
    setting = inner if first in stages and inner and key not in fields_by_key() else key
    try:
      grid[key] = tuple(parse(setting, value.strip()) for value in values.split(","))
    except ConfigError as error:
      raise ConfigError(f"--grid {text!r}: {error}") from None
    if len(set(grid[key])) < len(grid[key]):
      raise ConfigError(f"--grid {text!r}: a value is there twice")
  return grid


def product(grid: Grid) -> list[Values]:
  """Every combination of a grid's values, the last key fastest."""
  return [dict(zip(grid, combination, strict=True)) for combination in itertools.product(*grid.values())]


def make_points(
  points: Sequence[Values], load: Callable[[Values], Experiment], workdir: pathlib.Path
) -> list[SweepRun]:
  """The experiments of a sweep.

  Args:
    points: the settings that each changes.
    load: the experiment with these settings, checked.
    workdir: of the sweep.

  Raises:
    ConfigError: a point cannot run, or two come out the same; the message names the point.
  """
  experiments: list[Experiment] = []
  for values in points:
    try:
      experiments.append(load(values))
    except ConfigError as error:
      raise ConfigError(f"point {point_name(values)}: {error}") from None
  if not experiments:
    raise ConfigError("there is no point; give the values to try, such as --grid loss.beta=0.05,0.1")
  last = [planned(experiment)[list(experiment.stages)[-1]] for experiment in experiments]
  for i, identity in enumerate(last):
    if identity in last[:i]:
      first = point_name(points[last.index(identity)])
      raise ConfigError(
        f"point {point_name(points[i])}: its last stage is the same as that of {first}: what it changes is not read"
      )
  folders = _folders(points, experiments, workdir)
  return [
    SweepRun(point_name(values), values, experiment, places)
    for values, experiment, places in zip(points, experiments, folders, strict=True)
  ]


def point_name(values: Values) -> str:
  """A folder's name; a value may be a path: quoted, it is one folder's name."""
  return ",".join(f"{key}={urllib.parse.quote(str(value), safe='')}" for key, value in values.items())


def planned(experiment: Experiment) -> dict[str, str]:
  """What each stage is, before anything is read: its settings and the stages that it starts from."""
  found: dict[str, str] = {}
  for name, config in experiment.stages.items():
    settings = identity_settings(config) | {"train.steps": config.train.steps, "train.epochs": config.train.epochs}
    before = {key: found[source] for key, source in sources(config).items()}
    found[name] = json.dumps([settings, before], sort_keys=True)
  return found


def _folders(
  points: Sequence[Values], experiments: Sequence[Experiment], workdir: pathlib.Path
) -> list[dict[str, pathlib.Path]]:
  """The folder of every stage of every point: named by the settings that make a difference to the stage."""
  identities = [planned(experiment) for experiment in experiments]
  folders: list[dict[str, pathlib.Path]] = [{} for _ in points]
  for name in experiments[0].stages:
    keys = [key for key in points[0] if _matters(key, name, points, identities)]
    if not all(list(point) == list(points[0]) for point in points):  # a list of points that change different settings
      keys = None
    for point, identity, places in zip(points, identities, folders, strict=True):
      alike = [i for i, other in enumerate(identities) if other[name] == identity[name]]
      own = point if keys is None else {key: point[key] for key in keys}
      own = points[alike[0]] if keys is None else own
      shared = len(alike) == len(points) and name != ALONE
      places[name] = workdir / ("" if shared else point_name(own)) / name
  return folders


def _matters(key: str, name: str, points: Sequence[Values], identities: Sequence[Mapping[str, str]]) -> bool:
  """Whether two points that differ in nothing but `key` have different stages of that name."""
  for i, one in enumerate(points):
    for j, other in enumerate(points[:i]):
      differ = [k for k in one if one[k] != other.get(k)]
      if differ == [key] and identities[i][name] != identities[j][name]:
        return True
  return False
