"""A run that took no step: a mistyped setting, a Ctrl-C while it compiled, a start that failed. Its folder is used again.

What it wrote says nothing that the next start would not say anew, so with other settings it is replaced, and no new
workdir is asked for. Its stage.json goes last, replaced by that of the next run: a process that is killed in between leaves
a folder that holds still less of a run without steps.
"""

import contextlib
import pathlib
import shutil

from dpojax import digests
from dpojax.errors import CheckpointError
from dpojax.training import stage_record
from dpojax.training.checkpoint import CHECKPOINTS
from dpojax.training.runlog import METRICS, rows_of
from dpojax.training.stage_record import StageRecord

WITHOUT_STEPS = ("pairs", "best_of_n", "comparison")  # recipes whose work is answers
ANSWERS = ("answers.jsonl", "answers.jsonl.part", "answers")  # a part of them is what a kill leaves
# What a run writes before its first step, or when it ends without one. Caches stay: they are bound to what they are of.
WRITTEN = (
  CHECKPOINTS,
  METRICS,
  "log.txt",
  "tensorboard",
  "tracker.json",
  "samples",
  "rollouts",
  "plots",
  "result.json",
  "report.md",
  "rewards.json",
  "stop.json",
  "data.json",
  "model.json",
  "tokenizer",
  "environment.json",
  "config.json",
)


def took_no_step(folder: pathlib.Path, record: StageRecord) -> bool:
  """Whether the run in a folder did nothing that is worth keeping: no step changed a parameter, no answer was written.

  Args:
    record: its stage.json.
  """
  if record.settings.get("recipe") in WITHOUT_STEPS:
    return record.ended is None and not any((folder / name).exists() for name in ANSWERS)
  if record.ended is not None and record.ended.step:
    return False
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    for path in (folder / CHECKPOINTS).iterdir():  # damaged and unfinished ones too: 3.damaged
      number = path.name.partition(".")[0]
      if number.isdecimal() and int(number):
        return False
  try:
    rows = [row for _, row in rows_of(folder / METRICS)]
  except (CheckpointError, OSError):
    return False
  # A step whose loss was not finite left the parameters as they were.
  return all(row["step"] == 0 or row.get("skipped_in_row") == row["step"] for row in rows if row["split"] == "train")


def clear(folder: pathlib.Path) -> None:
  """Removes what a run wrote into a folder, but for its stage.json, and whatever else lies there."""
  known = digests.read_list(folder).files
  kept = {name: entry for name, entry in known.items() if name == stage_record.FILE}
  digests.replace_list(folder, kept)  # first: a file that is listed must be there
  for name in WRITTEN:
    path = folder / name
    # A link to a folder, on a larger disk, is the user's: what it leads to is emptied.
    for place in path.iterdir() if path.is_dir() and path.is_symlink() else [path]:
      if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
      else:
        place.unlink(missing_ok=True)
