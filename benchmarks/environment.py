"""What is measured on, and by what right: processor, versions, commit, how busy others keep the machine.

Imports neither jax nor dpojax: the peers' Pythons import it too.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUIET = 0.10  # of a processor: what others may use
TUNED_ALLOCATOR = {
  "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": "100000000000",
  "MALLOC_TOP_PAD_": "268435456",
}
FLAGS_THAT_MATTER = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "fma")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
MEASURED_WITH = ("dpojax", "benchmarks", "experiments", "setup.py", "requirements.lock")  # what a commit must hold


def add_common_options(parser: argparse.ArgumentParser) -> None:
  """--out and --force, which every script has."""
  parser.add_argument("--out", type=Path, help="also write the results here as JSON")
  parser.add_argument("--force", action="store_true", help="measure on a busy machine")


def busy_seconds() -> float:
  """Processor seconds spent by everything on this machine since it started, stolen time included."""
  user, nice, system, _idle, _iowait, irq, softirq, steal = map(
    int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
  )
  return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def refuse_if_busy(force: bool, seconds: float = 3.0) -> float:
  """How many processors others use now; ends the program where that is too many, unless forced."""
  before = busy_seconds()
  time.sleep(seconds)
  load = (busy_seconds() - before) / seconds
  if load > QUIET and not force:
    raise SystemExit(f"others use {load:.2f} processors: wait until the machine is quiet, or pass --force")
  return load


def measure(command: list[str], environment: dict[str, str], processors: set[int] | None = None) -> tuple[str, dict]:
  """Runs a command; its output, and seconds, peak memory in GB, and processors kept busy by others.

  Its peak is that of its largest process; whatever it waited for is its own and not others'.
  """
  started, busy = time.perf_counter(), busy_seconds()
  with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
    process = subprocess.Popen(
      command,
      env=os.environ | environment,
      stdout=output,
      stderr=errors,
      cwd=ROOT,
      preexec_fn=(lambda: os.sched_setaffinity(0, processors)) if processors else None,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    output.seek(0)
    errors.seek(0)
    if process.returncode:
      raise SystemExit(f"{' '.join(command)}\nfailed with exit code {process.returncode}:\n{errors.read()[-4000:]}")
    said = output.read()
  wall = time.perf_counter() - started
  others = (busy_seconds() - busy - usage.ru_utime - usage.ru_stime) / wall
  return said, dict(peak_gb=usage.ru_maxrss * 1024 / 1e9, others=round(others, 2), process_seconds=round(wall, 1))


def python_environment() -> dict[str, str]:
  """What a subprocess needs to import this checkout, whatever its working directory."""
  return {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}


def describe_machine() -> dict:
  """Processor, cores this process may use, memory, and the instructions that decide which products are fast."""
  cpu = Path("/proc/cpuinfo").read_text()

  def field(name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", cpu, re.MULTILINE)
    return found.group(1).strip() if found else "unknown"

  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  flags = set(field("flags").split())
  return {
    "processor": f"{field('model name')} (family {field('cpu family')}, model {field('model')})",
    "cores": len(os.sched_getaffinity(0)),
    "memory_gb": round(memory / 1e9, 1),
    "flags": [flag for flag in FLAGS_THAT_MATTER if flag in flags],
    "system": f"{platform.system()} {platform.release()}",
  }


def describe_software() -> dict:
  """Commit, whether the measured files differ from it, date, Python and package versions."""

  def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""

  changed = [line for line in git("status", "--porcelain", "--", *MEASURED_WITH).splitlines() if ".py" in line]
  return {
    "commit": git("rev-parse", "--short=10", "HEAD") or "unknown",
    "changed_files": len(changed),
    "date": datetime.date.today().isoformat(),
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
  }


def has_fast_bfloat16() -> bool:
  """Whether the processor multiplies bfloat16 itself; without, such products are widened, or emulated slowly."""
  return bool({"avx512_bf16", "amx_bf16"} & set(describe_machine()["flags"]))


def spread(values: list[float], form: str) -> str:
  """'median (least-greatest)'."""
  middle, low, high = (format(f(values), form) for f in (statistics.median, min, max))
  return f"{middle} ({low}-{high})"


def table(header: list[str], rows: list[list[str]]) -> str:
  """A Markdown table; the first column is set left, the others right."""
  lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
  return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_results(path: Path | None, results: dict) -> None:
  if path is not None:
    path.write_text(json.dumps(results, indent=1) + "\n")


def script_command(script: str, *options: str, python: str = sys.executable) -> list[str]:
  """-P keeps this folder, which holds a trl.py and a profile.py, from shadowing libraries."""
  return [python, "-P", str(ROOT / "benchmarks" / script), *options]
