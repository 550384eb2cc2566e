"""`dpojax train`: one run, from its start or from where its workdir stopped."""

import pathlib
import shutil

from dpojax.cli.options import config_parser, parse_with_config

INTERRUPTED = 75  # sysexits' "temporary failure": the same command goes on


def main(arguments: list[str]) -> int:
  """0 when the run has ended, 75 when it was asked to stop and saved what it had."""
  parser = config_parser(
    "dpojax train",
    "Trains as the config says. The same command again goes on where the workdir stopped.\n"
    "On SIGTERM or Ctrl-C the run saves a checkpoint and exits with code 75.",
  )
  parser.add_argument(
    "--allow-config-change", action="store_true", help="go on in a workdir whose run had other settings"
  )
  options, config = parse_with_config(parser, arguments)

  from dpojax.assemble import run
  from dpojax.cli import compilation_cache
  from dpojax.report import terminal_report

  compilation_cache.begin()

  outcome = run(config, options.workdir, allow_config_change=options.allow_config_change)
  if outcome.reason == "preempted":
    return INTERRUPTED
  width = min(140, shutil.get_terminal_size((100, 24)).columns)
  print(terminal_report(pathlib.Path(options.workdir), width=width))
  return 0
