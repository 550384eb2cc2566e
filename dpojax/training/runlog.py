"""What a run writes while it runs: metrics.jsonl, log.txt, TensorBoard events, the progress line."""

import datetime
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from dpojax import digests, screen, terminal
from dpojax.errors import CheckpointError, ConfigError
from dpojax.files import append_whole, json_line, parse_json, to_json_number
from dpojax.training.numbers import (
  TIE,
  format_duration,
  format_number,
  from_json_number,
  reward_in_words,
  rewards_of,
  tied,
)
from dpojax.training.time_left import TimeLeft
from dpojax.training.tracker import Tracker

METRICS, LOG, EVENTS = "metrics.jsonl", "log.txt", "tensorboard"
REDRAW_SECONDS = 0.1
STATUS_SECONDS = 30.0  # without a line, after which passing text is printed where there is no terminal
ROLLOUT = "rollout"  # split whose newest record stands on the lines of the steps that follow it
RAW = "objective/reward_raw"  # recorded where scores are normalised
STANDING = ("objective/score", "objective/kl", RAW)
# Metrics shown on a line, in this order: short name and form. A narrow terminal leaves out the last ones.
SHOWN = {
  "objective/score": ("score", lambda value: thousandths(value)),
  "objective/kl": ("KL", lambda value: thousandths(value)),
  "policy/approx_kl": ("moved", lambda value: f"{value:.4f}" if value >= 5e-5 else "0"),
  "policy/clip_fraction": ("clipped", lambda value: percent(value)),
  "loss": ("loss", format_number),
  "rewards/accuracies": ("accuracy", lambda value: percent(value)),
  "rewards/margins": ("margin", lambda value: no_rounding(value)),
  "mean_token_accuracy": ("token accuracy", lambda value: percent(value)),
  "taken": ("", lambda value: "" if value else "stopped"),
  "tokens_per_second": ("tokens/s", format_number),
}
# Those of what the policy writes, after its rewards.
SHOWN_OF_POLICY = {
  "kl/token": ("KL a token", lambda value: no_rounding(value)),
  "path_kl/token": ("KL a token along truncated samples", format_number),
  "win_rate": ("win rate", lambda value: percent(value)),
  "length/policy": ("length", format_number),
  "finished": ("ended", lambda value: percent(value, 0)),
  "kl/sequence": ("KL an answer", lambda value: no_rounding(value)),
}


class RunLog:
  """The log of one run's folder; safe to use from several threads.

  `metrics.jsonl` holds one JSON object a line: `step`, `split`, then metrics by name. A line is
  written by one system call, so killing the process loses none; a last line torn by a full disk or
  a power cut is dropped when the log is opened again. Numbers that JSON lacks are written as the
  strings "nan", "inf" and "-inf", see `read_metrics`.

  Args:
    folder: made if missing.
    total_steps: planned length of the run; 0: unknown.
    log_every: steps between lines of progress where there is no terminal.
    tensorboard: also write events for TensorBoard.
    tracker: makes, of a function that says a line, what is also told of every record and ended when the log is closed.
    stream: where messages and progress go; None: standard error.
    live: redraw one line in place; None: when `stream` is a terminal.

  Raises:
    ConfigError: TensorBoard is asked for and tensorboardX is not installed.
    CheckpointError: metrics.jsonl of an earlier run is damaged; names file and line.
  """

  def __init__(
    self,
    folder: str | Path,
    *,
    total_steps: int = 0,
    log_every: int = 1,
    tensorboard: bool = False,
    tracker: Callable[[Callable[[str], None]], Tracker] | None = None,
    stream: TextIO | None = None,
    live: bool | None = None,
  ):
    self.folder = Path(folder)
    self.total_steps = total_steps
    self.log_every = log_every
    self._writer_type = summary_writer_type() if tensorboard else None
    self._writer: Any = None
    self._stream = stream if stream is not None else sys.stderr
    self._live = screen.is_live(self._stream) if live is None else live
    self._lock = threading.RLock()
    self._line: list[str] = []  # the fields of the live line on the screen now
    self._step: list[str] = []  # those of the newest step, which stay where passing text does not
    self._drawn_at = -REDRAW_SECONDS
    self._printed_at = time.monotonic()
    self.time_left = TimeLeft()
    self.move_limit = 0.0  # of a policy gradient: `update_kl_limit`, for words
    self._untaken: dict[
      int, float | None
    ] = {}  # how far the policy had moved, by step that was left out; None: no rows
    self._recorded: set[tuple[int, str]] = set()
    self._standing: dict[int, dict[str, float]] = {}  # of `STANDING`, by the step that the roll-out was made after
    self.folder.mkdir(parents=True, exist_ok=True)
    changed = digests.damage(self.folder, [METRICS, LOG])
    drop_torn_line(self.folder / METRICS)
    self._metrics = open(self.folder / METRICS, "ab", buffering=0)  # noqa: SIM115
    self._log = open(self.folder / LOG, "ab", buffering=0)  # noqa: SIM115
    for _, row in rows_of(self.folder / METRICS):
      self._note(row)
    if changed:
      self.message(f"{changed}; the run goes on from its checkpoint, but its curves and reports may be wrong")
    if METRICS in digests.read_list(self.folder).files:
      self.seal()  # from now on it grows
    self._tracker = None if tracker is None else tracker(self.message)

  def record(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Appends metrics of one step of a split ("train", "eval", "policy") to the files."""
    row = {"step": step, "split": split} | {name: to_json_number(value) for name, value in metrics.items()}
    with self._lock:
      append_whole(self._metrics, json_line(row), self.folder / METRICS)
      self._note(row)
      if self._writer_type is not None:
        if self._writer is None:
          # Events of an earlier start at or after this step are hidden by TensorBoard.
          self._writer = self._writer_type(str(self.folder / EVENTS), purge_step=step)
        for name, value in metrics.items():
          self._writer.add_scalar(f"{split}/{name}", value, step)
      if self._tracker is not None:
        self._tracker.log(step, split, metrics)

  def _note(self, row: Mapping[str, Any]) -> None:
    """Remembers that there is a row, and of the newest two roll-outs what the lines of their steps say."""
    self._recorded.add((row["step"], row["split"]))
    if row["split"] == "train" and row.get("taken") == 0:
      self._untaken[row["step"]] = row.get("policy/approx_kl")
    if row["split"] == ROLLOUT:  # steps are written one late: that of the one before may still be asked for
      self._standing[row["step"]] = {name: from_json_number(row[name]) for name in STANDING if name in row}
      self._standing = dict(sorted(self._standing.items())[-2:])

  def record_latest(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Records metrics in the place of others of the same step and split, if there are any; the same ones stay as they are."""
    row = {"step": step, "split": split} | {name: to_json_number(value) for name, value in metrics.items()}
    with self._lock:
      if self.has(step, split):
        rows = rows_of(self.folder / METRICS)
        if [known for _, known in rows if (known["step"], known.get("split")) == (step, split)] == [row]:
          return
        self._keep([line for line, known in rows if (known["step"], known.get("split")) != (step, split)])
      self.record(step, split, metrics)

  def has(self, step: int, split: str) -> bool:
    """Whether there is a record of this step and split."""
    return (step, split) in self._recorded

  def measured_at(self, step: int) -> dict[str, float]:
    """What monitors have recorded of this step, by metric."""
    rows = [row for row in read_metrics(self.folder / METRICS) if row["step"] == step and row["split"] != "train"]
    return {name: value for row in rows for name, value in row.items() if name not in ("step", "split")}

  def records(self, split: str) -> list[dict[str, Any]]:
    """All records of a split, in order, with every number a number."""
    return [row for row in read_metrics(self.folder / METRICS) if row["split"] == split]

  def progress(self, step: int, metrics: Mapping[str, float]) -> None:
    """Shows where the run is: redraws the live line, or prints a line every `log_every` steps."""
    with self._lock:
      made = max((at for at in self._standing if at < step), default=None)
      metrics = metrics if made is None else self._standing[made] | dict(metrics)
      self.time_left.taken(step)
      last = step == self.total_steps
      lines = self._of_rollout(step, last)
      if (step % self.log_every == 0 and metrics.get("taken") != 0) or last:
        lines.append("  ".join(self._fields(step, metrics)))
      for line in lines:
        self._to_log(line)
      if not self._live:
        for line in lines:
          self._print(line)
      elif last or time.monotonic() - self._drawn_at >= REDRAW_SECONDS:
        self._step = self._fields(step, metrics)
        self._draw(self._step)

  def message(self, text: str) -> None:
    """Prints text, above the live line if there is one, and appends it to log.txt."""
    with self._lock:
      self._to_log(text)
      line = self._line
      self._erase()
      self._print(text)
      if line and self._step:
        self._draw(self._step)

  def status(self, text: str) -> None:
    """Shows passing text on the live line until the next message or step; prints it now and then where there is none."""
    with self._lock:
      if self._live and time.monotonic() - self._drawn_at >= REDRAW_SECONDS:
        self._draw([text])
      elif not self._live and time.monotonic() - self._printed_at >= STATUS_SECONDS:
        self._print(text)

  def truncate_after(self, step: int) -> None:
    """Drops metrics of steps after `step`: a run resumed from there records them again."""
    with self._lock:
      self._keep([line for line, row in rows_of(self.folder / METRICS) if row["step"] <= step])

  def seal(self) -> None:
    """Lists metrics.jsonl and log.txt, as far as they go, in digests.json: what stands there is checked when it is read."""
    with self._lock:
      digests.list_grown(self.folder, [METRICS, LOG])

  def _keep(self, lines: Sequence[bytes]) -> None:
    """Makes these all that metrics.jsonl holds."""
    path = self.folder / METRICS
    self._recorded, self._standing, self._untaken = set(), {}, {}
    for line in lines:
      self._note(parse_json(line))
    self._metrics.close()
    digests.write(self.folder, METRICS, b"".join(lines), grows=True)
    self._metrics = open(path, "ab", buffering=0)  # noqa: SIM115

  def close(self) -> None:
    """Leaves the newest step on the screen, without passing text, and closes the files."""
    with self._lock:
      if self._tracker is not None:
        self._tracker.finish()
      if self._line != self._step:
        self._erase()
        if self._step:
          self._draw(self._step)
      if self._line:
        self._print("")
        self._line = []
      for file in (self._metrics, self._log, self._writer):
        if file is not None:
          file.close()
      digests.list_grown(self.folder, [LOG])

  def __enter__(self) -> "RunLog":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _fields(self, step: int, metrics: Mapping[str, float]) -> list[str]:
    """`step 120/500`, `left 3m05s`, `loss 0.5931`, `accuracy 71.2%`, `margin 0.3201`, `tokens/s 1,240`."""
    parts = [f"step {step:,}/{self.total_steps:,}" if self.total_steps else f"step {step:,}"]
    left = self.time_left.seconds(self.total_steps) if self.total_steps else None
    if left is not None:
      parts.append(f"left {format_duration(left)}")
    return parts + fields_in_words(metrics)

  def _of_rollout(self, step: int, last: bool) -> list[str]:
    """Where a roll-out ends, a line about those of its steps that were left out, if any were."""
    cycle = self.time_left.cycle
    if step % cycle and not last:
      return []
    number = (step - 1) // cycle
    mine = {at: moved for at, moved in self._untaken.items() if number * cycle < at <= step}
    self._untaken = {}
    if not mine:
      return []
    moved = [from_json_number(value) for value in mine.values() if value is not None]
    limit = f", limit {self.move_limit:g}" if self.move_limit else ""
    why = f": the policy moved {max(moved):.3g}{limit}" if moved else ""
    return [f"roll-out {number}: {len(mine):,} of {step - number * cycle:,} steps left out{why}"]

  def _draw(self, fields: list[str]) -> None:
    left = next((place for place, field in enumerate(fields) if field.startswith("left ")), 0)
    screen.live_line(self._stream, fields, first=left)
    self._line, self._drawn_at = fields, time.monotonic()

  def _erase(self) -> None:
    if self._line:
      terminal.obeyed(self._stream, terminal.ERASE_LINE)
      self._line = []

  def _print(self, text: str) -> None:
    self._stream.write(terminal.shown(text) + "\n")
    self._stream.flush()
    self._printed_at = time.monotonic()

  def _to_log(self, text: str) -> None:
    now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    append_whole(self._log, f"{now}  {terminal.shown(text)}\n".encode(), self.folder / LOG)


def in_words(metrics: Mapping[str, float]) -> str:
  """`loss 0.5931  accuracy 71.2%  margin 0.3201`: those of the metrics that people follow."""
  return "  ".join(fields_in_words(metrics))


def fields_in_words(metrics: Mapping[str, float]) -> list[str]:
  """The same, a text each."""
  rewards = {name: (reward_in_words(name), format_number) for name in rewards_of(metrics)}
  said = lambda name, form: "tied" if tied(metrics, name) else form(metrics[name])  # noqa: E731
  shown = SHOWN | rewards | SHOWN_OF_POLICY
  if RAW in metrics:
    shown["objective/score"] = ("score (normalised)", thousandths)
  if "policy/approx_kl" in metrics or "taken" in metrics:
    del shown["loss"]  # of a policy gradient: about 0 at a roll-out's own policy, whatever was learned
  words = [f"{short} {said(name, form)}".strip() for name, (short, form) in shown.items() if name in metrics]
  return [word for word in words if word]


def percent(value: float, decimals: int = 1) -> str:
  """A fraction in percent; `-` of none."""
  return "-" if math.isnan(value) else f"{value:.{decimals}%}"


def no_rounding(value: float) -> str:
  """A number that is 0 but for rounding, such as the margin of a policy that still is its reference, as `0`."""
  return "0" if abs(value) < TIE else format_number(value)


def thousandths(value: float) -> str:
  """Three decimals, never `-0.000`."""
  text = f"{value:.3f}"
  return "0.000" if text == "-0.000" else text


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
  """Rows of a metrics.jsonl with every number a number again; a torn last line is left out.

  Raises:
    CheckpointError: a line is not a row of metrics; names file and line.
  """
  return [{name: _number_in(name, value) for name, value in row.items()} for _, row in rows_of(Path(path))]


def _number_in(name: str, value: Any) -> Any:
  """A value of a row as a number again, but for what is none; TypeError or ValueError of what no row has."""
  return value if name in ("step", "split") or value is None else from_json_number(value)


def rows_of(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
  """(line, parsed row) of every complete line."""
  rows = []
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  for number, line in enumerate(lines, 1):
    if number == len(lines) and not line.endswith(b"\n"):
      break
    try:
      row = parse_json(line)
      if not isinstance(row["step"], int) or not isinstance(row["split"], str):
        raise TypeError
      for name, value in row.items():
        _number_in(name, value)
    except (ValueError, KeyError, TypeError, AttributeError):
      raise CheckpointError(
        f"{path}, line {number}: not a row of metrics ({line[:60]!r}); mend or delete the line"
      ) from None
    rows.append((line, row))
  return rows


def drop_torn_line(path: Path) -> None:
  """Cuts off a last line that has no end."""
  if path.exists():
    data = path.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
      os.truncate(path, complete)


def summary_writer_type() -> Any:
  """tensorboardX's SummaryWriter, imported only when asked for."""
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    raise ConfigError(
      "logging.tensorboard needs tensorboardX, which is not installed: pip install 'dpojax[tensorboard]'"
    ) from None
  return SummaryWriter
