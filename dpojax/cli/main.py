"""The `dpojax` command: finds the sub-command, loads it only then, and says errors in one line."""

import importlib
import sys

from dpojax.errors import InputError

COMMANDS = {
  "train": "train a model as a config says, or go on where its workdir stopped",
  "sweep": "train over a grid of settings, compiled once; one table and one plot",
  "score": "log-probs of the answers in a file under a model",
  "eval": "accuracy, calibration and length bias of a reward model or policy on held-out comparisons",
  "sample": "write answers with a model",
  "export": "turn a run into a transformers folder",
  "data": "look at a data set: `dpojax data inspect`",
  "report": "one page over runs: the frontier, curves, samples, what each method costs",
  "compare": "two runs paired by prompt: differences of reward, KL and length with intervals",
  "bt": "Bradley-Terry strengths of items compared in pairs: a leaderboard from a file of games",
}

HELP = f"""Learning from pairwise comparisons in JAX.

usage: dpojax COMMAND [OPTIONS]

commands:
{chr(10).join(f"  {name:<8}{meaning}" for name, meaning in COMMANDS.items())}

`dpojax COMMAND --help` lists a command's options. To begin:

  dpojax train --config=experiments/quickstart.py --workdir=runs/quickstart
"""


def main(arguments: list[str] | None = None) -> int:
  """Runs one command; 0 when done, 1 when it failed, 2 when what it was given is wrong."""
  arguments = sys.argv[1:] if arguments is None else arguments
  if not arguments or arguments[0] in ("-h", "--help", "help"):
    print(HELP, end="")
    return 0
  if arguments[0] == "--version":
    from dpojax import __version__

    print(f"dpojax {__version__}")
    return 0
  name, rest = arguments[0], arguments[1:]
  if name not in COMMANDS:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; commands are {', '.join(COMMANDS)}"
    return fail(f"unknown command {name!r}{hint}")
  try:
    return importlib.import_module(f"dpojax.cli.{name}").main(rest)
  except InputError as error:
    return fail(str(error))
  except BrokenPipeError:
    sys.stderr.close()  # the reader of our output has gone, as in `dpojax ... | head`
    return 1
  except KeyboardInterrupt:
    print("dpojax: interrupted", file=sys.stderr)
    return 130


def fail(message: str) -> int:
  """Says what the user can mend; returns the exit code of that."""
  print(f"dpojax: error: {message}", file=sys.stderr)
  return 2
