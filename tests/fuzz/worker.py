"""Runs a number of cases of some domains in this process: `python -m tests.fuzz.worker --out=FOLDER rows:500 bt:200`.

Writes FOLDER/summary.json (counts, faults, the peak of memory) and each faulty case as FOLDER/DOMAIN-N.json, which
may join `tests/fuzz/corpus`.
"""

import argparse
import collections
import faulthandler
import json
import os
import pathlib
import re
import resource
import tempfile
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":  # of this process, before JAX and the hub's library read it, and of no other
  os.environ |= {
    "DPOJAX_COMPILATION_CACHE": "",
    "DPOJAX_TOKEN_CACHE": "",
    "JAX_PLATFORMS": "cpu",
    "HF_HUB_OFFLINE": "1",
  }
  os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import numpy as np

from tests.fuzz import commands, configs, games, models, records, rows, runner
from tests.fuzz.cases import Case
from tests.fuzz.seeds import Seeds

DOMAINS: dict[str, Callable[[Any, Seeds], Case]] = {
  "rows": lambda rng, seeds: rows.rows_case(rng),
  "files": lambda rng, seeds: rows.files_case(rng),
  "configs": lambda rng, seeds: configs.configs_case(rng),
  "models": models.models_case,
  "tokenizers": models.tokenizers_case,
  "templates": models.templates_case,
  "commands": lambda rng, seeds: commands.commands_case(rng),
  "bt": lambda rng, seeds: games.memory_case(rng) if rng.random() < 0.1 else games.games_case(rng),
  "records": records.records_case,
}
MOST = 8 * 2**30  # bytes of data of this process: an absurd allocation is an error before it harms the machine
STUCK = 60  # seconds after which a process that no signal reaches is ended, with its stack


def case_of(domain: str, seed: int, number: int, seeds: Seeds) -> Case:
  """The same case for the same domain, seed and number, whatever else is run."""
  rng = np.random.default_rng([seed, sorted(DOMAINS).index(domain), number])
  return DOMAINS[domain](rng, seeds)


def peak() -> int:
  """Bytes of memory that this process had at most."""
  found = re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
  return int(found[1]) * 1024 if found else 0


def run_cases(wanted: dict[str, range], seed: int, out: pathlib.Path) -> dict[str, Any]:
  """Runs cases number RANGE of each domain; returns what summary.json holds."""
  faults, codes, slowest = [], collections.Counter(), (0.0, "")
  seconds: dict[str, float] = collections.defaultdict(float)
  with tempfile.TemporaryDirectory(prefix="dpojax_fuzz_") as place:
    base = pathlib.Path(place).resolve()
    seeds = Seeds(base / "seeds")
    for domain, numbers in wanted.items():
      for number in numbers:
        case = case_of(domain, seed, number, seeds)
        (out / "now").write_text(case.to_json())  # what was running, should the process end
        faulthandler.dump_traceback_later(STUCK, exit=True)
        outcome = runner.run(case, base / "case", seeds.of(case))
        faulthandler.cancel_dump_traceback_later()
        codes[f"{domain}\t{case.kind}\t{outcome.code}"] += 1
        seconds[domain] += outcome.seconds
        slowest = max(slowest, (outcome.seconds, f"{domain}-{number}"))
        if outcome.fault:
          (out / f"{domain}-{number}.json").write_text(case.to_json())
          where = re.findall(r'File ".*?((?:dpojax|tests)/[\w/]+\.py)", line (\d+)', outcome.trace)
          last = where[-1] if where else ("", "")
          about = {"case": f"{domain}-{number}", "kind": case.kind, "command": " ".join(case.command)[:300]}
          faults.append(about | {"fault": outcome.fault, "at": ":".join(last), "said": outcome.said[-300:]})
          (out / f"{domain}-{number}.txt").write_text(f"{outcome.trace}\n{outcome.said}", errors="backslashreplace")
  (out / "now").unlink(missing_ok=True)
  return {"faults": faults, "codes": codes, "slowest": slowest, "seconds": seconds, "peak": peak()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("wanted", nargs="+", metavar="DOMAIN:COUNT")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--first", type=int, default=0)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  options = parser.parse_args()
  resource.setrlimit(resource.RLIMIT_DATA, (MOST, resource.getrlimit(resource.RLIMIT_DATA)[1]))
  options.out.mkdir(parents=True, exist_ok=True)
  counts = {domain: int(count) for domain, count in (word.split(":") for word in options.wanted)}
  wanted = {domain: range(options.first, options.first + count) for domain, count in counts.items()}
  found = run_cases(wanted, options.seed, options.out)
  (options.out / "summary.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
  main()
