"""Reports a run's metrics to wandb or trackio, which have the same calls: `init`, `log`, `finish`.

The tracker is a guest: metrics.jsonl has everything, and a tracker that fails, at the start or in the middle, is left out with
one line. Its run is named in the workdir, `tracker.json`, so that a run that goes on is one run there too.
"""

import contextlib
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from dpojax.errors import ConfigError
from dpojax.files import parse_json, write_json

FILE = "tracker.json"
NAMES = ("wandb", "trackio")


class Tracker:
  """One run at a tracker, from its making to `finish`; safe to call when the tracker has failed.

  Args:
    name: "wandb" or "trackio".
    folder: of the run; names it, with some letters more so that two folders of one name are two runs.
    project: that it is shown in.
    config: settings of the run, in JSON's types.
    say: where a line about a failure goes.

  Raises:
    ConfigError: it is not installed; says how it is.
  """

  def __init__(
    self, name: str, folder: pathlib.Path, *, project: str, config: Mapping[str, Any], say: Callable[[str], None]
  ):
    try:
      self._module: Any = importlib.import_module(name)
    except ImportError:
      raise ConfigError(
        f"logging.tracker={name} needs {name}, which is not installed: pip install 'dpojax[{name}]'"
      ) from None
    self.name, self._say = name, say
    known = run_id(folder, name)
    # Of trackio the name is what a run is known by; wandb wants an id, and is told where its own files go.
    more = {"id": known, "dir": str(folder)} if name == "wandb" else {}
    called = f"{folder.resolve().name}-{known[:6]}"
    self._try("init", project=project, name=called, config=dict(config), resume="allow", **more)

  def log(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Reports metrics of a step of a split as `SPLIT/NAME`."""
    self._try("log", {f"{split}/{name}": value for name, value in metrics.items()}, step=step)

  def finish(self) -> None:
    """Ends the run at the tracker; it has what was reported when this returns."""
    self._try("finish")
    self._module = None

  def _try(self, call: str, *arguments: Any, **options: Any) -> None:
    if self._module is None:
      return
    try:
      with contextlib.redirect_stdout(sys.stderr):  # what it has to say is no result of ours
        getattr(self._module, call)(*arguments, **options)
    except (Exception, SystemExit) as error:
      reason = (str(error).strip() or repr(error)).splitlines()[0]
      self._module = None
      self._say(f"{self.name}: {call} failed ({reason}); the run goes on without it, and metrics.jsonl has everything")


def run_id(folder: pathlib.Path, name: str) -> str:
  """By what the tracker knows the run in a folder: made at its first start, and kept."""
  path = folder / FILE
  with contextlib.suppress(OSError, ValueError, TypeError):
    facts = parse_json(path.read_text(encoding="utf-8"))
    if isinstance(found := facts.get(name), str):
      return found
  made = os.urandom(8).hex()
  write_json(path, {name: made})
  return made
