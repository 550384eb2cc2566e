"""Checks dpojax on a GPU, then measures it: exactness part by part, speed and memory beside TRL. At most 8 minutes.

python benchmarks/gpu_check.py [--only=exact,attention,speed,trl,profile] [--out=FILE.md]   # --help has more

Needs jax with CUDA, flax, optax and orbax-checkpoint, and for TRL's row torch, transformers and trl; no network, no
model files and no data: models are made from sizes, rows are in benchmarks/data. Every part runs in a process of its own
and is reported whatever becomes of the others; what is skipped is named with the reason. Without a GPU the exactness
parts compare the processor with itself at a tiny size, which only shows that they run.

Ends with exit code 1 where a part failed. Append the tables to benchmarks/LOG.md.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

KINDS = ("exact", "attention", "speed", "trl", "profile")
LIMIT = 480.0  # seconds of everything
LEAST = 30.0  # without which no group of exactness parts is started


# ---- the processes that touch the device


def describe() -> dict:
  """The device, its driver and the versions that matter."""
  import importlib.metadata
  import platform

  import jax

  from dpojax.ops.attention_gpu import reason_without

  device = jax.devices()[0]
  found = {"platform": device.platform, "kind": device.device_kind, "python": platform.python_version()}
  found |= {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
  for name in ("torch", "transformers", "trl", "datasets"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  if device.platform == "gpu":
    found |= {"capability": device.compute_capability, "without_kernels": reason_without()}
    found["memory_bytes"] = (device.memory_stats() or {}).get("bytes_limit", 0)
    told = subprocess.run(
      ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    found["driver"] = told.stdout.strip().splitlines()[0] if told.returncode == 0 and told.stdout.strip() else "unknown"
  return found


def child(part: str, argument: str, options: dict, size: str, out: Path) -> None:
  """Runs a part here and writes a JSON line for each finding."""

  def report(found: dict) -> None:
    with out.open("a") as file:
      file.write(json.dumps(found) + "\n")

  if part == "describe":
    report(describe())
  elif part == "exact":
    from benchmarks.gpu.parts import run_parts

    run_parts(size, report, tuple(filter(None, argument.split(","))))
  else:
    from benchmarks.gpu.speed import run

    report(run(part, argument, options))


# ---- the runner


class Runner:
  """Starts parts one after another while there is time; keeps what they found, and what was left out and why."""

  def __init__(self, size: str, limit: float):
    self.size, self.ends = size, time.monotonic() + limit
    self.cache = tempfile.TemporaryDirectory()  # of compiled programs, which several parts share
    self.skipped: list[str] = []
    self.failed: list[str] = []
    self.running: set[subprocess.Popen] = set()
    self.stopped = False

  def start(
    self, part: str, argument: str = "", *, most: float, least: float = 0.0, environment: dict | None = None, **options
  ) -> list[dict]:
    """Findings of a part in a process of its own; [] where it was skipped or gave none.

    Args:
      most: seconds after which it is ended.
      least: seconds that must be left for it to be started.
      environment: variables of that process.
      options: of the part.
    """
    name = f"{part} {argument}".strip()
    left = self.ends - time.monotonic()
    if self.stopped or left <= least:
      why = "stopped" if self.stopped else f"{max(left, 0):.0f} s left, about {least:.0f} needed"
      return self.skip(name, why)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
      out = Path(folder) / "found.jsonl"
      given = [part, argument, json.dumps(options), self.size, str(out)]
      command = [sys.executable, "-P", str(Path(__file__).resolve()), "--child", *given]
      reason = self.wait_for(command, self.variables(environment), min(most, left))
      found = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    if reason:
      self.failed.append(f"{name}: {reason}")
      print(f"FAILED   {name}: {reason}", flush=True)
    else:
      print(f"         {name}: {time.monotonic() - started:.0f} s", flush=True)
    return found

  def variables(self, more: dict | None) -> dict[str, str]:
    ours = {
      "TF_CPP_MIN_LOG_LEVEL": "2",
      "TOKENIZERS_PARALLELISM": "false",
      "JAX_COMPILATION_CACHE_DIR": self.cache.name,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"} | os.environ | (more or {}) | ours

  def wait_for(self, command: list[str], variables: dict[str, str], seconds: float) -> str:
    """Runs a process to its end or for so many seconds; why it failed, or nothing."""
    pipes: dict = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(command, cwd=ROOT, env=variables, **pipes)
    self.running.add(process)
    try:
      _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
      return f"ended after {seconds:.0f} s"
    finally:
      process.kill()
      process.wait()
      self.running.discard(process)
    if process.returncode == 0:
      return ""
    return " ".join(errors.strip().splitlines()[-3:])[-700:] or f"exit code {process.returncode}"

  def stop(self) -> None:
    """Ends what runs and starts nothing more; what was found is kept."""
    self.stopped = True
    for process in list(self.running):
      process.kill()

  def skip(self, name: str, reason: str) -> list[dict]:
    self.skipped.append(f"{name}: {reason}")
    print(f"SKIPPED  {name}: {reason}", flush=True)
    return []


def end_with(parent: int) -> None:
  """Ends this process soon after its parent has ended, however that was: nothing must go on holding the device."""

  def watch():
    while os.getppid() == parent:
      time.sleep(0.5)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def exactness(runner: Runner, names: list[str], found: list[dict]) -> None:
  """Adds findings of the parts of `gpu/parts.py`; in groups side by side where this machine has four processors for each."""
  from benchmarks.gpu.groups import GROUPS

  groups = [(flags, [part for part in parts if not names or part in names]) for flags, parts in GROUPS]
  groups = [(flags, parts) for flags, parts in groups if parts]
  workers = max(1, min(len(groups), len(os.sched_getaffinity(0)) // 4))

  def start(group):
    flags, parts = group
    flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS", ""), flags)))
    share = {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / (workers + 2):.2f}"}
    parts_found = runner.start("exact", ",".join(parts), most=220, least=LEAST, environment=share)
    for part in parts_found:
      verdict = "passed" if part["passed"] else "FAILED"
      print(f"{verdict:8s} {part['part']}: {part['text']} ({part['seconds']} s)", flush=True)
    reached = [part["part"] for part in parts_found]
    skipped = any(line.startswith(f"exact {','.join(parts)}:") for line in runner.skipped)
    runner.failed += [f"{part['part']}: {part['text']}" for part in parts_found if not part["passed"]]
    runner.failed += [f"{name}: not reached" for name in parts if name not in reached and not skipped]
    found.extend(parts_found)

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    list(pool.map(start, groups))


def speeds(
  runner: Runner, kinds: set[str], names: list[str], without_trl: str, steps: list[dict], attentions: list[dict]
) -> None:
  """Adds to `steps` and `attentions` what was measured of each model; `without_trl`: why TRL is left out."""
  from benchmarks.gpu.speed import SHAPES

  for name in names:
    if "attention" in kinds:
      attentions += runner.start("attention", name, most=60, least=25)
    if "speed" in kinds:
      steps += runner.start("dpojax", name, most=150, least=45)
    if "profile" in kinds:
      for found in runner.start("profile", name, most=120, least=45):
        print(found["text"], flush=True)
    for run in SHAPES[name].trl if "trl" in kinds else ():
      label = f"{name}:{run}"
      steps += (
        runner.skip(f"trl {label}", without_trl) if without_trl else runner.start("trl", label, most=100, least=40)
      )
  for name in names if "speed" in kinds else ():
    # At the pairs of TRL's smallest step, for memory at equal pairs.
    pairs = int(SHAPES[name].trl[0].partition("@")[2])
    steps += runner.start("dpojax", name, most=120, least=45, pairs=pairs, rows=1)


def tables(
  about: dict, ceiling: dict, parts: list[dict], steps: list[dict], attentions: list[dict], runner: Runner
) -> str:
  """What was found, in Markdown."""
  from benchmarks.environment import table

  versions = ", ".join(
    f"{key} {about[key]}" for key in ("python", "jax", "flax", "torch", "trl", "driver") if key in about
  )
  lines = [f"{about['kind']}, {versions}, {datetime.date.today().isoformat()}"]
  if ceiling:
    rates = f"{ceiling['flops'] / 1e12:.0f} TFLOP/s in a bfloat16 product of 8192^3, {ceiling['bytes'] / 1e12:.2f} TB/s in a copy"
    lines.append(f"Measured here: {rates}.")
  if parts:
    rows = [[p["part"], "passed" if p["passed"] else "FAILED", p["text"]] for p in parts]
    lines += ["", table(["part", "", "found"], rows)]
  if steps:
    header = [
      "model",
      "side",
      "pairs a step",
      "tokens/s",
      "of TRL's best",
      "s a step",
      "of the card's rate",
      "peak GB",
      "planned GB",
    ]
    rows = []
    for step in steps:
      peers = [s["tokens_per_second"] for s in steps if s["model"] == step["model"] and s["side"] != "dpojax"]
      rate = step.get("flops_per_second", 0.0)
      rows.append(
        [
          step["model"],
          step["side"],
          str(step["pairs"]),
          f"{step['tokens_per_second']:,.0f}",
          f"{step['tokens_per_second'] / max(peers):.2f}" if peers else "-",
          f"{step['step_seconds']:.3f}",
          f"{100 * rate / ceiling['flops']:.0f} %" if rate and ceiling else "-",
          f"{step['peak_bytes'] / 1e9:.2f}" if step["peak_bytes"] else "-",
          f"{step['planned_bytes'] / 1e9:.2f}" if "planned_bytes" in step else "-",
        ]
      )
    lines += ["", table(header, rows)]
  if attentions:
    names = list(attentions[0]["seconds"])
    rows = [
      [a["model"], *(f"{1e3 * t:.2f}" if isinstance(t, float) else "none" for t in (a["seconds"][n] for n in names))]
      for a in attentions
    ]
    lines += ["", "One layer's attention with its gradient, ms:", "", table(["model", *names], rows)]
    missing = {f"{n}: {a['seconds'][n]}" for a in attentions for n in names if isinstance(a["seconds"][n], str)}
    lines += [f"- {text}" for text in sorted(missing)]
  if runner.skipped:
    lines += ["", "Skipped: " + "; ".join(runner.skipped) + "."]
  return "\n".join(lines)


def arguments() -> argparse.Namespace:
  """What the command line says; ends the program where it names what there is not."""
  from benchmarks.gpu.groups import GROUPS
  from benchmarks.gpu.speed import SHAPES

  known = {"only": KINDS, "parts": [name for _, names in GROUPS for name in names], "models": [*SHAPES]}
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  sizes = "of the exactness parts' models; tiny: of the speed table's, too. Left out: small on a GPU, tiny without"
  parser.add_argument("--size", choices=("small", "tiny"), help=sizes)
  parser.add_argument("--only", default="exact,attention,speed,trl", help=f"by commas, of {', '.join(KINDS)}")
  parser.add_argument("--parts", help=f"of exactness, by commas: {', '.join(known['parts'])}; all where left out")
  models = f"of the speed table, by commas: {', '.join(SHAPES)}"
  parser.add_argument("--models", default="SmolLM2-135M,1.5B", help=models)
  parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of everything")
  parser.add_argument("--out", type=Path, help="also write the tables here")
  parser.add_argument("--raw", type=Path, help="also write everything found here, as JSON")
  parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
  given = parser.parse_args()
  for option, names in known.items():
    value = getattr(given, option)
    asked = [] if value is None else value.split(",")
    if not set(asked) <= set(names):
      parser.error(f"--{option}={value}: it takes, by commas, {', '.join(names)}")
    setattr(given, option, asked)
  return given


def main() -> int:
  given = arguments()
  if given.child:
    part, argument, options, size, out = given.child
    end_with(os.getppid())
    child(part, argument, json.loads(options), size, Path(out))
    return 0

  runner = Runner(given.size or "small", given.limit)
  exact, ceiling, steps, attentions = [], {}, [], []

  def stop(signum, frame):
    runner.stop()
    raise KeyboardInterrupt(signal.Signals(signum).name)

  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)
  described = runner.start("describe", most=90)
  if not described:
    return 1
  about = described[0]
  print(json.dumps(about), flush=True)
  on_gpu = about["platform"] == "gpu"
  runner.size = given.size or ("small" if on_gpu else "tiny")
  measured = set(given.only) - {"exact"}
  try:
    if "exact" in given.only:
      exactness(runner, given.parts, exact)
    if measured and not on_gpu and given.size != "tiny":
      runner.skip(", ".join(sorted(measured)), f"no GPU here: jax finds {about['platform']} ({about['kind']})")
    elif measured:
      tiny = dict(size=256, megabytes=4) if given.size == "tiny" else {}
      ceiling |= next(iter(runner.start("ceilings", most=60, least=20, **tiny)), {})
      absent = [name for name in ("torch", "transformers", "trl", "datasets") if name not in about]
      without_trl = f"not installed here: {', '.join(absent)}" if absent else ""
      models = ["tiny"] if given.size == "tiny" else given.models
      speeds(runner, measured, models, without_trl, steps, attentions)
  except KeyboardInterrupt as signalled:
    runner.failed.append(f"stopped by {signalled}")
  text = tables(about, ceiling, exact, steps, attentions, runner)
  print(f"\n{text}\n")
  for failure in runner.failed:
    print(f"FAILED   {failure}")
  if given.out:
    given.out.write_text(text + "\n")
  if given.raw:
    found = dict(about=about, ceiling=ceiling, parts=exact, steps=steps, attentions=attentions)
    given.raw.write_text(json.dumps(found, indent=1) + "\n")
  return 1 if runner.failed else 0


if __name__ == "__main__":
  sys.exit(main())
