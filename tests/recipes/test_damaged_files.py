"""A file that is damaged, gone, of another run or swapped is named by who reads it, or what is made does not depend on it.

`DPOJAX_DAMAGES=200` draws as many cases, `DPOJAX_DAMAGES_SEED` others, and -s shows the table.
"""

import collections
import os
import shutil

import pytest

from tests.recipes.damaged import KINDS, build, cases, damage, outcome, verdict

FEW = 16
COUNT = int(os.environ.get("DPOJAX_DAMAGES", FEW))
SEED = int(os.environ.get("DPOJAX_DAMAGES_SEED", 0))


@pytest.mark.long
def test_no_damage_is_silent(tmp_path):
  at, kept = tmp_path / "all", tmp_path / "kept"
  at.mkdir()
  build(at)
  shutil.copytree(at, kept)

  def restore():
    shutil.rmtree(at)
    shutil.copytree(kept, at)

  drawn, before, found = cases(at, COUNT, SEED), {}, []
  for case in drawn:
    if case.command not in before:
      before[case.command] = outcome(at, case.command)
      assert before[case.command].code == 0, before[case.command].said
      restore()
    damage(at, case)
    after = outcome(at, case.command)
    restore()
    found.append((case, verdict(case, before[case.command], after), after))
  print("\n" + table(found))
  wrong = [f"{what} {case}: {after.said[-600:]}" for case, what, after in found if what in ("SILENT", "CRASH")]
  assert not wrong, "\n\n".join(wrong)
  assert sum(what == "named" for _, what, _ in found) > COUNT / 5  # many commands do read what was damaged


def table(found):
  counts = collections.Counter((case.kind, what) for case, what, _ in found)
  lines = [f"{'':10}{'named':>8}{'same':>8}{'SILENT':>8}{'CRASH':>8}"]
  for kind in KINDS:
    lines.append(f"{kind:10}" + "".join(f"{counts[kind, what]:8}" for what in ("named", "same", "SILENT", "CRASH")))
  return "\n".join(lines + [f"  same: {case}" for case, what, _ in found if what == "same"])
