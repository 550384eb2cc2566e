"""`dpojax train`: an experiment, from its start or from where its workdir stopped."""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Mapping

from dpojax import screen
from dpojax.cli.main import INTERRUPTED
from dpojax.cli.options import config_parser, parse_with_config
from dpojax.config.experiment import Experiment

Folders = Mapping[str, pathlib.Path]  # of the stages
WIDEST = 140  # columns of samples side by side: longer lines are hard to read


def main(arguments: list[str]) -> int:
  """0 when the run has ended, 75 when it was asked to stop and saved what it had."""
  parser = config_parser(
    "dpojax train",
    "Runs the stages of a config, one after another. The same command again goes on where the workdir stopped.\n"
    "On SIGTERM or Ctrl-C the run saves a checkpoint and exits with code 75.",
  )
  parser.add_argument(
    "--allow-config-change", action="store_true", help="go on in a workdir whose run had other settings or inputs"
  )
  parser.add_argument("--only", metavar="STAGE", default="", help="run this stage; those before it must have ended")
  parser.add_argument("--until", metavar="STAGE", default="", help="run no stage after this one")
  parser.add_argument(
    "--jobs",
    type=int,
    metavar="N",
    default=1,
    help="stages at once, each in a process on its share of the processors (1)",
  )
  parser.add_argument("--dry-run", action="store_true", help="show the stages and what is done of them; run nothing")
  options, experiment = parse_with_config(parser, arguments)
  workdir = pathlib.Path(options.workdir)

  from dpojax.sweeps.stages import check_stages, ended_in, having, overview, pending, stage_folders

  folders = stage_folders(experiment, workdir)
  check_stages(experiment, only=options.only, until=options.until)
  if options.dry_run:
    print(dry_run(overview(experiment, folders)))
    return 0

  from dpojax.cli import compilation_cache
  from dpojax.parallel import check_one_process
  from dpojax.report import best_of_n_report, comparison_report, terminal_report

  here = options.jobs == 1 or options.only or experiment.alone
  if here:
    check_one_process()  # before the folder is locked, or the other process would be told of the lock
  with having(workdir, options.only):
    if here:
      compilation_cache.begin()
      allow, only, until = options.allow_config_change, options.only, options.until
      with contextlib.closing(pending(experiment, folders, only=only, until=until, allow_change=allow)) as stages:
        for recipe, config, inputs, folder in stages:
          if recipe(config, inputs, folder).reason == "preempted":
            return INTERRUPTED
    elif code := side_by_side(options, arguments, experiment, folders):
      return code
  last = options.only or options.until or list(experiment.stages)[-1]
  ended, made = ended_in(folders[last]), experiment.stages[last].recipe
  width = min(WIDEST, screen.width_of(sys.stdout))
  reports = {"best_of_n": best_of_n_report, "comparison": comparison_report}
  if ended is not None and made in reports:
    screen.say(reports[made](folders[last], width=width), sys.stdout)
  elif ended is None or not ended.weights:  # it trained no model, so there is nothing to report
    print(f"{made}: {folders[last]}")
  else:
    screen.say(terminal_report(folders[last], width=width), sys.stdout)
  return 0


def side_by_side(options: argparse.Namespace, arguments: list[str], experiment: Experiment, folders: Folders) -> int:
  """Runs them in processes of their own, `--jobs` at once."""
  from dpojax.recipes import Inputs
  from dpojax.sweeps.side_by_side import run_side_by_side
  from dpojax.sweeps.stages import check_data_files, reported, stage_state
  from dpojax.training.folder_lock import inherited

  check_data_files(experiment)
  left_out = {f"--jobs={options.jobs}", f"--until={options.until}"}
  words = [word for word in arguments if word not in left_out]
  for name in ("--jobs", "--until"):
    if name in words:  # its value is the next word
      place = words.index(name)
      del words[place : place + 2]
  return run_side_by_side(
    experiment,
    folders,
    [sys.executable, "-m", "dpojax", "train", *words],
    options.jobs,
    workdir=pathlib.Path(options.workdir),
    finished=lambda name: (
      not options.allow_config_change
      and stage_state(experiment.stages[name], folders[name], Inputs(experiment.stages[name], folders)) == "finished"
      and reported(folders[name])  # else it was asked to stop before that was written, and its process writes it
    ),
    until=options.until,
    variables=inherited(options.workdir),
  )


def dry_run(rows: list[list[str]]) -> str:
  """A block a stage: its recipe, folder and state, then each setting that is not its default."""
  blocks = []
  for name, recipe, folder, state, settings in rows:
    lines = [f"stage {name}: recipe {recipe}, in {folder}: {state}"]
    blocks.append("\n".join([*lines, *(f"  {line}" for line in settings.split("; ") if line)]))
  return "\n\n".join(blocks)
