"""How far it is from the command to the loss: a limit that a helper too many breaks."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_from_the_command_to_the_loss_there_are_at_most_twelve_frames_in_seven_files():
  # In a process of its own: a step that this one has traced before would not be traced again.
  command = [sys.executable, str(ROOT / "benchmarks/frames.py")]
  said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  found = re.search(r"^(\d+) frames in (\d+) files$", said, re.MULTILINE)
  assert found, said
  frames, files = map(int, found.groups())
  assert frames <= 12 and files <= 7, said
