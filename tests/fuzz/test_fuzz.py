"""No traceback, no hang and no more than 2 GB for anything that a user can give: random inputs, and all that were faults once.

Each domain is fuzzed in a process of its own, from a fixed seed: `DPOJAX_FUZZ=20000` draws so many inputs and not
some 340, `DPOJAX_FUZZ_SEED=1` others. A fault leaves its input as a file; copied into `corpus/`, it is run by every
`make check` from then on. What was damaged and yet accepted is counted by what was done to it in `accepted.txt` of the
folder that a failure names, or of `DPOJAX_FUZZ_OUT`.
"""

import collections
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.fuzz import runner
from tests.fuzz.cases import Case
from tests.fuzz.seeds import ROOT, Seeds

CORPUS = pathlib.Path(__file__).parent / "corpus"
KNOWN = sorted(CORPUS.glob("*.json"))
# Inputs of each domain in `make test`, and in which process: what is quick has many.
SHARES = [
  {"rows": 100, "bt": 75, "tokenizers": 40},
  {"models": 60, "configs": 30, "files": 10, "templates": 4, "commands": 10, "records": 8},
]
SOME = sum(sum(share.values()) for share in SHARES)
MOST_MEMORY = 2 * 10**9  # bytes


@pytest.mark.slow
@pytest.mark.parametrize(
  "share", [pytest.param(s, marks=pytest.mark.xdist_group("+".join(s)), id="+".join(s)) for s in SHARES]
)
def test_no_input_ends_in_a_traceback(share, tmp_path):
  more = int(os.environ.get("DPOJAX_FUZZ", SOME)) / SOME
  counts = [f"{domain}:{round(count * more)}" for domain, count in share.items()]
  seed = os.environ.get("DPOJAX_FUZZ_SEED", "0")
  out = pathlib.Path(os.environ.get("DPOJAX_FUZZ_OUT") or tmp_path) / "+".join(share)
  command = [sys.executable, "-m", "tests.fuzz.worker", f"--out={out}", f"--seed={seed}", *counts]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=600 + 600 * more)
  summary = out / "summary.json"
  assert done.returncode == 0, f"{done.stderr[-3000:]}\nthe input: {out / 'now'}"
  found = json.loads(summary.read_text())
  faults = "\n".join(f"{out / f['case']}.json ({f['kind']}): {f['fault']} at {f['at']}" for f in found["faults"])
  assert not faults, f"copy what was mended into {CORPUS}:\n{faults}"
  assert found["peak"] <= MOST_MEMORY
  assert sum(found["codes"].values()) == sum(int(count.split(":")[1]) for count in counts)
  (out / "accepted.txt").write_text(accepted(found["codes"]))


def accepted(codes: dict[str, int]) -> str:
  """A table: of each domain and mutation, how many inputs were accepted of how many."""
  of: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for key, count in codes.items():
    domain, kind, code = key.split("\t")
    of[f"{domain:<12} {kind}"][code] += count
  lines = [f"{name:<60} {counts['0']:>6} of {counts.total():>6}" for name, counts in sorted(of.items()) if counts["0"]]
  return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
  return Seeds(tmp_path_factory.mktemp("seeds"))


def _marked(path: pathlib.Path):
  trains = '"run"' in path.read_text()  # a seed of two steps of training
  return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * trains)


@pytest.mark.slow
@pytest.mark.parametrize("path", [_marked(path) for path in KNOWN])
def test_what_was_a_fault_is_none(path, seeds, tmp_path):
  case = Case.from_json(path.read_text())
  outcome = runner.run(case, tmp_path / "case", seeds.of(case))
  assert not outcome.fault, f"{outcome.fault}\n{outcome.trace}"


@pytest.mark.slow
def test_a_traceback_is_a_fault(seeds, tmp_path, monkeypatch):
  """Faults that are put in are found: an exception, an exit code, a message that says nothing, a hang."""
  case = Case("commands", "none", ["compare", "a", "b"])

  def outcome(main):
    monkeypatch.setattr(runner, "main", main)
    return runner.run(case, tmp_path / "case", seeds.of(case))

  def loop(words):
    while True:
      pass

  def says(text, code):
    return lambda words: print(text, file=sys.stderr) or code

  monkeypatch.setattr(runner, "SLOWEST", 0.2)
  assert outcome(lambda words: 0).fault == ""
  assert outcome(says("dpojax: error: a: no such folder", 2)).fault == ""
  assert outcome(lambda words: 1 // 0).fault.startswith("ZeroDivisionError")
  assert outcome(lambda words: sys.exit(2)).fault.startswith("SystemExit")
  assert outcome(lambda words: 3).fault == "exit code 3"
  assert outcome(says("", 2)).fault.startswith("exit code 2")
  assert outcome(says("dpojax: error: 'lr'", 2)).fault.startswith("exit code 2")
  assert outcome(says("Traceback (most recent call last)", 1)).fault == "a traceback on stderr"
  assert outcome(loop).fault.startswith("Hang")


def test_a_case_is_the_same_every_time_and_as_a_file(tmp_path):
  from tests.fuzz import worker

  seeds = Seeds(tmp_path)
  for domain in ("rows", "bt", "configs", "files"):
    for number in range(20):
      case = worker.case_of(domain, 3, number, seeds)
      assert worker.case_of(domain, 3, number, seeds).to_json() == case.to_json()
      assert Case.from_json(case.to_json()).to_json() == case.to_json()
