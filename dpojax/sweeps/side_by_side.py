"""Running an experiment's stages side by side, each in a process of its own, as soon as those that it starts from have ended.

::

  stages in order -> those whose sources have ended, at most `jobs` of them -> `dpojax train ... --only=STAGE`
    each on its share of the processors; what it says goes to WORKDIR/jobs/STAGE.txt
  WORKDIR/jobs/stages.txt: a table of all stages, how each is and what it said last, anew every few seconds

A child is the ordinary command, so that whatever it leaves, one after another would have left too.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from dpojax import signals
from dpojax.config.experiment import Experiment
from dpojax.errors import ConfigError
from dpojax.files import write_atomically
from dpojax.sweeps.stages import check_stages, ended_in
from dpojax.terminal import in_line, left, width
from dpojax.training.numbers import format_duration

JOBS, TABLE = "jobs", "stages.txt"  # folder of what stages said, and the table in it
INTERRUPTED = 75  # how a stage that was asked to stop ends
POLL, TOLD = 0.2, 5.0  # seconds between two looks at the processes, and between two tables


@dataclasses.dataclass
class Job:
  """A stage that runs."""

  stage: str
  process: subprocess.Popen
  processors: frozenset[int]
  output: pathlib.Path
  began: float

  def last_line(self) -> str:
    """What it said last."""
    lines = self.output.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run_side_by_side(
  experiment: Experiment,
  folders: Mapping[str, pathlib.Path],
  command: Sequence[str],
  jobs: int,
  *,
  workdir: pathlib.Path,
  finished: Callable[[str], bool],
  until: str = "",
  variables: Mapping[str, str] | None = None,
  say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> int:
  """Runs the stages that have not ended; 0 when all have, 75 when it was asked to stop, 1 when one failed.

  A stage that fails keeps those from running that start from it, and no others. Requests to stop (SIGTERM, Ctrl-C) go on to
  all that run, which save what they have.

  Args:
    folders: of every stage.
    command: the words that run the experiment, without --jobs.
    jobs: stages at once, at most.
    workdir: of the experiment.
    finished: whether a stage has ended as the experiment has it now; asked once its sources have ended.
    until: the last stage to run.
    variables: of the environment, that stages get beside ours.
    say: where a line about each stage goes.

  Raises:
    ConfigError: fewer processors than jobs.
  """
  check_stages(experiment, until=until)
  sets = processor_sets(jobs)
  names = list(experiment.stages)
  waiting = names[: names.index(until) + 1] if until else names
  wanted = list(waiting)
  running: list[Job] = []
  failed: dict[str, str] = {}
  done: dict[str, str] = {}  # how long each took, or that it had ended before
  told = 0.0

  def told_in_table(jobs: Sequence[Job]) -> None:
    try:
      write_atomically(workdir / JOBS / TABLE, stages_table(wanted, experiment, done, failed, jobs) + "\n")
    except OSError as error:  # what runs is worth more than a table of it
      say(f"{workdir / JOBS / TABLE}: {error.strerror}")

  def requested() -> bool:
    return stop is not None and stop.number != 0

  (workdir / JOBS).mkdir(parents=True, exist_ok=True)
  say(f"{len(wanted)} stages, at most {jobs} at once; what each does: {workdir / JOBS / TABLE}")
  with signals.held() as stop, _ended_with_us(running):
    while waiting or running:
      for job in [job for job in running if job.process.poll() is not None]:
        running.remove(job)
        took = format_duration(time.monotonic() - job.began)
        code = job.process.returncode
        if code == 0 and ended_in(folders[job.stage]) is not None:
          done[job.stage] = took
          say(f"stage {job.stage}: ended after {took}, {len(done)} of {len(wanted)}")
        elif code != INTERRUPTED or not requested():
          failed[job.stage] = job.last_line()
          say(f"stage {job.stage}: failed after {took} (exit code {code}): {failed[job.stage]}")
      if requested():
        for job in running:
          job.process.send_signal(signal.SIGTERM)  # once each: a second request would end it at once
        if running:
          say(
            f"asked to stop: {', '.join(job.stage for job in running)} {'save' if running[1:] else 'saves'} what there is"
          )
        for job in running:
          job.process.wait()
        told_in_table([])
        say(f"stopped: {len(done)} of {len(wanted)} stages have ended; the same command goes on")
        return INTERRUPTED
      for name in list(waiting):
        sources = set(experiment.sources(name).values())
        if sources & failed.keys():
          failed[name] = f"starts from {', '.join(sorted(sources & failed.keys()))}"
          waiting.remove(name)
          say(f"stage {name}: not run, as it {failed[name]}")
        elif not sources & {*waiting, *(job.stage for job in running)} and len(running) < jobs:
          waiting.remove(name)
          if finished(name):
            done[name] = "ended before"
            say(f"stage {name}: ended before, skipped")
            continue
          free = next(one for one in sets if all(job.processors != one for job in running))
          running.append(_start(name, command, free, workdir / JOBS / f"{name}.txt", variables or {}))
          say(f"stage {name}: {folders[name]}")
      if time.monotonic() - told > TOLD or not (waiting or running):
        told = time.monotonic()
        told_in_table(running)
      time.sleep(POLL)
  return 1 if failed else 0


def stages_table(
  names: Sequence[str],
  experiment: Experiment,
  done: Mapping[str, str],
  failed: Mapping[str, str],
  running: Sequence[Job],
) -> str:
  """A line a stage: its name and recipe, whether it waits, runs, has ended or failed, for how long, and what it said last."""
  jobs = {job.stage: job for job in running}
  rows = []
  for name in names:
    state, took, said = "waits", "", ""
    if name in done:
      state, took = "ended", done[name]
    elif name in failed:
      state, said = "failed", failed[name]
    elif name in jobs:
      state, took = "runs", format_duration(time.monotonic() - jobs[name].began)
      said = jobs[name].last_line()
    rows.append([name, experiment.stages[name].recipe, state, took, said])
  rows = [[in_line(cell) for cell in row] for row in rows]
  widths = [max(width(row[i]) for row in rows) for i in range(4)]
  return "\n".join(
    "  ".join([*(left(cell, w) for cell, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows
  )


def processor_sets(jobs: int) -> list[frozenset[int]]:
  """The processors of this process in `jobs` parts, as equal as can be.

  Raises:
    ConfigError: there are fewer.
  """
  processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
  if not 1 <= jobs <= len(processors):
    raise ConfigError(f"--jobs={jobs}: wants 1 to {len(processors)}, the number of processors")
  return [frozenset(processors[i::jobs]) for i in range(jobs)]


def _start(
  stage: str, command: Sequence[str], processors: frozenset[int], output: pathlib.Path, variables: Mapping[str, str]
) -> Job:
  with open(output, "wb") as file:
    process = subprocess.Popen(
      [*command, f"--only={stage}"],
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
      env=os.environ | variables,
      start_new_session=True,  # Ctrl-C comes to it by us, once
    )
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(process.pid, processors)
  return Job(stage, process, processors, output, time.monotonic())


@contextlib.contextmanager
def _ended_with_us(running: Sequence[Job]) -> Iterator[None]:
  """No stage goes on behind a command that has ended, however it did."""

  def end() -> None:
    for job in list(running):
      if job.process.poll() is None:
        job.process.kill()

  try:
    with signals.at_end(end):
      yield
  finally:
    end()
