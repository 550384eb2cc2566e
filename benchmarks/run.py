"""Runs the benchmarks one after another, each in processes of its own, and writes RESULTS.md.

python benchmarks/run.py [--parts ops,profile,startup,trl,...] [--pairs hh_harmless.jsonl.gz]
    [--trl-python VENV/bin/python --trl-model MODEL] [--bt-python VENV/bin/python]

or `make bench` with PARTS=, PAIRS=, TRL_PYTHON=, TRL_MODEL=, BT_PYTHON= and FORCE=1. A part whose peer or data is
not given is left out, and RESULTS.md says so. What was measured is kept in results.json: parts that are not asked
for keep their figures, each with the commit, date and machine it was measured on. A busy machine is refused unless
forced.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.environment import (
  ROOT,
  TUNED_ALLOCATOR,
  describe_machine,
  describe_software,
  has_fast_bfloat16,
  measure,
  python_environment,
  refuse_if_busy,
  script_command,
)

FOLDER = ROOT / "benchmarks"


@dataclasses.dataclass(frozen=True)
class Part:
  """One section of RESULTS.md.

  Attributes:
    title: its heading.
    script: in this folder; its `summary` makes the section's text from what it wrote to --out.
    needs: options of this runner without which it is left out.
    words: its arguments.
    tuned: run with the tuned allocator, as TRL's comparison sets for both sides itself.
    forces: whether the script has --force.
    bfloat16: left out where the processor has no bfloat16 products, which PyTorch then emulates.
  """

  title: str
  script: str
  needs: tuple[str, ...]
  words: Callable[[argparse.Namespace], list]
  tuned: bool = False
  forces: bool = True
  bfloat16: bool = False


def _trl_words(arguments, precision: str, reference: str) -> list:
  words = [arguments.trl_model, arguments.pairs, f"--trl-python={arguments.trl_python}"]
  words += [f"--precision={precision}", f"--reference={reference}"]
  words += [f"--num-pairs={arguments.num_pairs}", f"--repetitions={arguments.repetitions}"]
  return words + ([f"--runs={arguments.trl_runs}"] if arguments.trl_runs else [])


PARTS = {
  "ops": Part("Numerics beside their floors", "ops.py", (), lambda a: [f"--repeats={a.repeats}"], tuned=True),
  "profile": Part("Where a DPO step goes", "profile.py", ("pairs",), lambda a: [f"--pairs={a.pairs}"], tuned=True),
  "startup": Part("Start-up", "startup.py", ("pairs",), lambda a: [f"--pairs={a.pairs}"]),
  **{
    name: Part(
      f"DPO beside TRL, {precision}, reference {reference}",
      "trl.py",
      ("pairs", "trl_python", "trl_model"),
      functools.partial(_trl_words, precision=precision, reference=reference),
      bfloat16=precision == "bfloat16",
    )
    for name, precision, reference in (
      ("trl", "float32", "live"),
      ("trl_cached", "float32", "cached"),
      ("trl_bfloat16", "bfloat16", "live"),
      ("trl_bfloat16_cached", "bfloat16", "cached"),
    )
  },
  "bradley_terry": Part(
    "Bradley-Terry strengths beside peers",
    "bradley_terry.py",
    ("bt_python",),
    lambda a: [f"--peers-python={a.bt_python}", f"--cases={a.bt_cases}"],
    forces=False,
  ),
}


def run_part(name: str, arguments) -> dict:
  """What a part measured, with where and how."""
  part = PARTS[name]
  refuse_if_busy(arguments.force)
  with tempfile.TemporaryDirectory() as scratch:
    out = Path(scratch) / "found.json"
    words = [str(word) for word in part.words(arguments)] + arguments.option.get(name, [])
    words += ["--force"] if arguments.force and part.forces else []
    environment = python_environment() | (TUNED_ALLOCATOR if part.tuned else {})
    _, cost = measure(script_command(part.script, *words, f"--out={out}"), environment)
    results = json.loads(out.read_text())
  allocator = "tuned" if part.tuned else "as the script sets it"
  described = dict(machine=describe_machine(), software=describe_software(), cost=cost, forced=arguments.force)
  return described | dict(allocator=allocator, results=results)


def render(recorded: dict, left_out: dict[str, str]) -> str:
  """RESULTS.md of everything recorded; `left_out` says why other parts are missing."""
  lines = [
    "# Measured side by side",
    "",
    "Written by `make bench`; do not edit. How to run and read it: README.md.",
    "",
  ]
  machines = [json.dumps(part["machine"], sort_keys=True) for part in recorded.values()]
  for machine in dict.fromkeys(machines):
    of = [name for name, other in zip(recorded, machines, strict=True) if other == machine]
    lines.append(f"- {describe(json.loads(machine))}" + (f" ({', '.join(of)})" if len(set(machines)) > 1 else ""))
  softwares = {json.dumps({**p["software"], "commit": "", "date": "", "changed_files": 0}) for p in recorded.values()}
  for software in sorted(softwares):
    found = json.loads(software)
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    lines.append(f"- Python {found['python']}, {versions}")
  for name, part in PARTS.items():
    if name in recorded:
      found = recorded[name]
      text = importlib.import_module(f"benchmarks.{Path(part.script).stem}").summary(found["results"])
      lines += ["", f"## {part.title}", "", circumstances(found), "", text.strip()]
    elif name in left_out:
      lines += ["", f"## {part.title}", "", f"Left out: {left_out[name]}."]
  return "\n".join(lines) + "\n"


def describe(machine: dict) -> str:
  flags = ", ".join(machine["flags"]) or "none of those that matter"
  return (
    f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, {machine['system']}; "
    f"instructions: {flags}"
  )


def circumstances(found: dict) -> str:
  """'Commit ..., date; how long, and how busy others kept the machine.'"""
  software, cost = found["software"], found["cost"]
  changed = software["changed_files"]
  commit = f"Commit `{software['commit']}`" + (f" with {changed} changed files" if changed else "")
  forced = " Forced: the machine may have been busy." if found["forced"] else ""
  return (
    f"{commit}, {software['date']}; {cost['process_seconds'] / 60:.1f} minutes, others used {cost['others']:.2f} "
    f"processors on average; allocator {found['allocator']}.{forced}"
  )


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  given = os.environ.get
  parser.add_argument("--parts", default=given("PARTS") or ",".join(PARTS), help=f"of {', '.join(PARTS)}")
  parser.add_argument("--pairs", default=given("PAIRS"), help="file of HH pairs")
  parser.add_argument("--trl-python", default=given("TRL_PYTHON"), help="a Python that has trl")
  parser.add_argument("--trl-model", default=given("TRL_MODEL"), help="SmolLM2 as a transformers folder")
  parser.add_argument("--bt-python", default=given("BT_PYTHON"), help="a Python with evalica, arena-rank and choix")
  parser.add_argument("--repeats", type=int, default=10, help="of ops")
  parser.add_argument("--trl-runs", help="of trl.py: SIDE@PAIRS_A_STEP,...")
  parser.add_argument("--num-pairs", type=int, default=32, help="of trl.py")
  parser.add_argument("--repetitions", type=int, default=3, help="of trl.py")
  parser.add_argument("--bt-cases", default="ABDC")
  parser.add_argument("--option", action="append", default=[], help="PART:WORD, a further argument of a part's script")
  parser.add_argument("--folder", type=Path, default=FOLDER, help="of RESULTS.md and results.json")
  parser.add_argument("--force", action="store_true", default=bool(given("FORCE")), help="measure on a busy machine")
  arguments = parser.parse_args()
  for name in ("pairs", "trl_python", "trl_model", "bt_python"):  # the parts run in this checkout's folder
    if getattr(arguments, name):
      setattr(arguments, name, os.path.abspath(getattr(arguments, name)))  # not resolved: a venv's python is a link
  options: dict[str, list[str]] = {}
  for option in arguments.option:
    name, _, word = option.partition(":")
    options.setdefault(name, []).append(word)
  arguments.option = options
  names = arguments.parts.split(",")
  if unknown := [name for name in [*names, *options] if name not in PARTS]:
    parser.error(f"unknown parts: {', '.join(unknown)}; known: {', '.join(PARTS)}")
  record = arguments.folder / "results.json"
  recorded = json.loads(record.read_text()) if record.is_file() else {}
  left_out, failed = {name: "not asked for" for name in PARTS if name not in recorded}, False
  for name in names:
    missing = [need.upper() for need in PARTS[name].needs if not getattr(arguments, need)]
    reason = f"{' and '.join(missing)} not given" if missing else ""
    if PARTS[name].bfloat16 and not has_fast_bfloat16():
      reason = "this processor has no bfloat16 products"
    if reason:
      left_out[name] = reason
      print(f"{name}: left out, {left_out[name]}", flush=True)
      continue
    print(f"{name} ...", flush=True)
    try:
      recorded[name] = run_part(name, arguments)
    except SystemExit as error:  # the others can still be measured
      failed, left_out[name] = True, "it failed"
      print(f"{name}: {error}", file=sys.stderr, flush=True)
      continue
    record.write_text(json.dumps(recorded, indent=1) + "\n")
    print(circumstances(recorded[name]), flush=True)
  (arguments.folder / "RESULTS.md").write_text(render(recorded, left_out))
  print(arguments.folder / "RESULTS.md")
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())
