"""A run that takes steps when it is told to, and what its kinds can do."""

import contextlib
import dataclasses
import io
import numbers
import os
import pathlib
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from dpojax.api.arguments import Rows, as_arguments, as_dataset, no_argument
from dpojax.api.export import export
from dpojax.api.models import generate
from dpojax.config.check import check
from dpojax.config.keys import replace_values, suggestion
from dpojax.config.schema import RunConfig
from dpojax.data.formats.common import Message
from dpojax.data.splits import Splits
from dpojax.errors import ConfigError
from dpojax.interop import hub
from dpojax.recipes import Inputs, policy_gradient, preference, reward_model, sft
from dpojax.recipes.given import Given
from dpojax.recipes.session import Session
from dpojax.recipes.steps import fit_rows, make_batches
from dpojax.report import terminal_report, write_report
from dpojax.rollout.answers_file import SampledAnswer
from dpojax.sweeps.stages import revisions
from dpojax.training.folder_lock import locked
from dpojax.training.hyper import Hyper
from dpojax.training.loop import RunResult, train
from dpojax.training.model_files import LoadedModel
from dpojax.training.run_folder import RunFolder
from dpojax.training.runlog import METRICS, read_metrics
from dpojax.training.trainer import Trainer

PREPARE = {
  "sft": sft.prepare,
  "preference": preference.prepare,
  "reward_model": reward_model.prepare,
  "policy_gradient": policy_gradient.prepare,
}


# By folder, the run that has it.
_OPEN: "weakref.WeakValueDictionary[pathlib.Path, Run]" = weakref.WeakValueDictionary()
SHARD = 5 * 10**9  # bytes of a weights file at most


class Run:
  """A run in a folder: it takes steps when told to, and goes on where the folder stopped.

  Use it as a context, or call `close`: the folder belongs to this process until then.

  Attributes:
    config: all settings; what the constructor was not told has its default.
    folder: where the run is kept. Without a `workdir` it is a temporary one that goes with the run.
    trainer: its state, its traced numbers, its steps by hand.
    steps: of the whole run.
  """

  config: RunConfig
  folder: pathlib.Path
  trainer: Trainer
  steps: int
  _session: Session
  _inputs: Inputs
  _close: weakref.finalize

  def __init__(
    self,
    recipe: str,
    settings: Mapping[str, Any],
    given: Given,
    *,
    workdir: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    allow_config_change: bool = False,
    **unknown: Any,
  ):
    """Args:
      recipe: what the run does, a name of `dpojax.config.schema.RECIPES`.
      settings: dotted keys and values.
      given: objects in the place of paths that stand in the settings.
      workdir: made if missing; None: a temporary folder.
      quiet: nothing is said on standard error; the folder's log has it.
      allow_config_change: go on in a folder that was begun with other settings or inputs.
      unknown: none; what a caller misspelled is refused by name.

    Raises:
      TypeError: there is no such argument, says which was meant.
      ConfigError: settings are wrong or contradict; the folder holds another run, says what differs.
      DataError, WeightsError, CheckpointError: something that is read is wrong; names it.
    """
    for name in unknown:
      raise TypeError(no_argument(type(self), name))
    config = replace_values(RunConfig(recipe=recipe), dict(settings))
    check(config)
    with as_arguments(), contextlib.ExitStack() as stack:
      if workdir is None:
        workdir = stack.enter_context(tempfile.TemporaryDirectory(prefix="dpojax-", ignore_cleanup_errors=True))
        config = replace_values(config, {"logging.plots": False})
      path = pathlib.Path(workdir)
      place = pathlib.Path(os.path.realpath(path))
      if (before := _OPEN.get(place)) is not None:
        before.close()  # a notebook's cell runs twice: two would write into each other's records
      stack.enter_context(locked(path))
      folder = RunFolder(path, config, allow_change=allow_config_change, stream=io.StringIO() if quiet else None)
      stack.callback(folder.close)
      inputs = Inputs(config, given=given)
      with hub.pinned(revisions({recipe: path})):  # a run goes on with the commits that it began with
        session = PREPARE[recipe](config, inputs, folder)
      session.folder.resume(session.trainer)
      values = {
        "config": config,
        "folder": path,
        "trainer": session.trainer,
        "steps": session.steps,
        "_session": session,
        "_inputs": inputs,
      }
      # At the latest when the interpreter ends: a lock that is left behind would keep others out.
      values["_close"] = weakref.finalize(self, stack.pop_all().close)
    for name, value in values.items():
      object.__setattr__(self, name, value)
    _OPEN[place] = self

  def __setattr__(self, name: str, value: Any) -> None:
    if not isinstance(getattr(type(self), name, None), property):
      known = [name for name in dir(type(self)) if isinstance(getattr(type(self), name), property)]
      raise AttributeError(
        f"{type(self).__name__} has nothing to set called {name!r}{suggestion(name, [*known, *self.hyper])}"
      )
    object.__setattr__(self, name, value)

  def __enter__(self) -> "Run":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def __repr__(self) -> str:
    return f"{type(self).__name__}({self._session.folder.path}, step {self.step:,} of {self.steps:,})"

  @property
  def step(self) -> int:
    """Steps taken so far."""
    return int(self.trainer.state.step)

  @property
  def hyper(self) -> Hyper:
    """Traced numbers by name: `run.hyper["learning_rate"] = 1e-6` takes effect at the next step and compiles nothing."""
    return self.trainer.hyper

  @property
  def policy(self) -> LoadedModel:
    """The model with the parameters of the latest step, copied to the host: for `generate`, `score`, or another run."""
    params = jax.device_get(self.trainer.policy_params)
    return dataclasses.replace(self._session.model, params=params, files=(), path="")

  @property
  def metrics(self) -> list[dict[str, Any]]:
    """All records so far: `step`, `split` ("train", "eval", "policy", ...) and numbers by name."""
    return read_metrics(self.folder / METRICS)

  def train(self, steps: int | None = None) -> RunResult:
    """Takes `steps` more steps; None: all that remain.

    A run that has taken its last step is saved and has its report; before, `save` saves, and so does Ctrl-C.

    Returns:
      The step reached, and why it is there: "paused", "finished", "stopped" by a monitor, or "preempted" by a signal.

    Raises:
      ConfigError: the run has fewer steps left.
      TrainingError: loss or gradient was not finite too often in a row.
    """
    self._check_open()
    left = self.steps - self.step
    if steps is not None and not (isinstance(steps, numbers.Integral) and steps >= 0):
      raise ConfigError(f"train({steps!r}): the number of steps must be a whole number, 0 or more")
    if steps is not None and steps > left:
      raise ConfigError(
        f"{steps:,} steps are asked for, and the run has {left:,} of its {self.steps:,} left, over which its learning rate was "
        f"planned; give {type(self).__name__}(..., steps={self.step + steps}) for a longer run"
      )
    arguments: dict[str, Any] = self._session.arguments() | {"until": None if steps is None else self.step + steps}
    if self.step:
      arguments["what"] = ""  # what it does is said once
    result = train(**arguments)
    if result.reason in ("finished", "stopped"):
      write_report(self.folder, reason=result.reason)
    return result

  def save(self) -> pathlib.Path:
    """Saves the state as it is: a run of the same settings in the same folder goes on from here. Returns the folder."""
    self._check_open()
    self._session.folder.save(self.trainer)
    return self.folder

  def export(self, out: str | os.PathLike[str], *, dtype: str = "float32") -> pathlib.Path:
    """Writes the model as it is now as a transformers folder, which `dpojax.load` reads too. Saves the run first.

    Args:
      out: new or empty folder.
      dtype: of the written weights, "float32" or "bfloat16".

    Raises:
      ConfigError: `out` holds something already, or the model is one of your own.
    """
    self.save()
    export(self.folder, pathlib.Path(out), step=self.step, max_shard_bytes=SHARD, dtype=dtype)
    return pathlib.Path(out)

  def report(self, *, width: int = 100) -> str:
    """Writes report.md, result.json and plots of what was recorded so far; returns the table and samples as text."""
    self._check_open()
    write_report(self.folder, reason="finished" if self.step >= self.steps else "paused")
    return terminal_report(self.folder, width=width)

  def close(self) -> None:
    """Gives the folder back; a temporary one goes. What was not saved is lost."""
    self._close()

  def _check_open(self) -> None:
    """Raises ConfigError where the folder was given back: a step would be taken and recorded nowhere."""
    if not self._close.alive:
      raise ConfigError(
        f"{self.folder}: this run is closed, or was built again; a new one goes on from what was saved in a workdir"
      )


class OnData(Run):
  """A run on examples that are known from the start."""

  def evaluate(self, data: Rows | None = None) -> dict[str, float]:
    """Metrics over held-out examples, each exactly once, with the parameters as they are.

    Args:
      data: rows, or tokenised examples; None: those that the run has held out.

    Raises:
      ConfigError: nothing was held out.
      DataError: rows are wrong; names them.
    """
    session, config = self._session, self.config
    if data is None:
      if session.held_out is None:
        raise ConfigError(
          "nothing is held out; give evaluate some data, or the run data with eval_fraction or eval_path"
        )
      return self.trainer.evaluate(self._attached(session.held_out))
    dataset = as_dataset(data, session.model, config)
    ready = self._inputs.as_read(Splits(dataset, dataset.subset([])), session.model)
    batches, _ = make_batches(fit_rows(config, self.trainer.mesh), ready)
    return self.trainer.evaluate(self._attached(batches))

  def _attached(self, batches: Any) -> Any:
    reference = self._session.reference
    return batches if reference is None or hasattr(batches, "reference_logp") else reference.attach(batches)


class Writing(Run):
  """A run whose model writes."""

  def sample(self, prompts: str | Sequence[str | list[Message]], **options: Any) -> list[str]:
    """Texts of answers to prompts by the model as it is now, one a prompt; options as of `dpojax.generate`.

    `dpojax.generate(run.policy, prompts, samples=4)` gives several, with tokens and log-probs.
    """
    return [answers[0].text for answers in self.generate(prompts, **options)]

  def generate(self, prompts: str | Sequence[str | list[Message]], **options: Any) -> list[list[SampledAnswer]]:
    """`dpojax.generate` with the parameters as they are on the devices; arguments, result and errors as there."""
    return generate(self._session.model, prompts, params=self.trainer.policy_params, **options)


class Compared(Run):
  """A run whose loss has a beta."""

  @property
  def beta(self) -> float:
    """The strength of the pull to the reference; set it between two steps: `run.beta = 0.5`."""
    return self.hyper["beta"]

  @beta.setter
  def beta(self, value: float) -> None:
    self.hyper["beta"] = value
