"""`dpojax compare`: two policies, paired by prompt, with intervals."""

import sys

from dpojax import screen
from dpojax.cli.arguments import file_path
from dpojax.cli.options import Parser
from dpojax.report.paired import compare, compared_in_words

DESCRIPTION = """Compares two policies on the prompts that both answered: difference of rewards, KL and length with 95 % intervals,
win rates, and the settings in which they differ.

  dpojax compare runs/dpo runs/ppo                                  two runs, by their newest looks (monitor.every)
  dpojax compare runs/frontier/compare:dpo runs/frontier/compare:ppo   two policies of a stage of recipe=comparison
  dpojax compare runs/seeds:dpo runs/seeds:ppo                      all runs of these names below a folder: several seeds

A and B: a run's folder, a folder with one run of each seed, or FOLDER:NAME."""


def main(arguments: list[str]) -> int:
  """0 when the comparison is printed."""
  parser = Parser("dpojax compare", DESCRIPTION, usage="dpojax compare A B")
  parser.add_argument("a", metavar="A", type=file_path, help="a run, or FOLDER:NAME")
  parser.add_argument("b", metavar="B", type=file_path, help="what is compared with it")
  options = parser.parse_args(arguments)
  found = compare(options.a, options.b)
  screen.say(compared_in_words(found, screen.width_of(sys.stdout)), sys.stdout)
  return 0
