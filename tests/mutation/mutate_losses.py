"""Breaks `dpojax.losses` in every small way and counts how often the tests of losses notice.

python tests/mutation/mutate_losses.py [--out mutants.jsonl] [--only dpo.py] [--share 0.25] [--policy-gradients]

Nothing on disk is changed: in a forked process the changed module is imported in the place of the file. Tests of the
function that was changed come first, then all of tests/losses, until one fails. What is in `--out` is not run again.
With --policy-gradients it breaks what a policy gradient computes (`POLICY_GRADIENTS`), losses or not.
"""

import argparse
import collections
import contextlib
import importlib.abc
import importlib.util
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
LOSSES = ROOT / "dpojax" / "losses"
TESTS = ROOT / "tests" / "losses"
# What tests the losses and not the oracles; the quickest to notice first.
FILES = [
  *("test_conformance.py", "test_reward_losses.py", "test_losses.py", "test_transport.py", "test_loss_limits.py"),
  *("test_theorems.py", "test_traps.py", "test_reductions.py", "test_extremes.py", "test_spec.py"),
]
QUICK = ("not docstrings", slice(2, 3))  # test_losses.py looks at the parts that losses share
SKIPPED = {"spec.py"}  # no loss: it reads what a config says
# What policy gradients compute, by the files that test it; the quickest first.
POLICY_GRADIENTS = {
  "losses/policy_gradient.py": ["losses/test_policy_gradient_losses.py"],
  "objectives/advantages.py": ["objectives/test_advantages.py", "objectives/test_ppo_golden.py"],
  "objectives/kl_control.py": ["objectives/test_kl_control.py"],
  "objectives/policy_gradient.py": ["objectives/test_policy_gradient_objective.py"],
}
# What tests are called that look at functions which are no losses.
NAMED = {
  "_transport": "aot",
  "_sorted": "aot",
  "_log_odds": "orpo",
  "_check_triples": "tpo",
  "_lead": "bradley_terry or rao_kupper or davidson",
  "_observed": "rao_kupper or davidson",
  "_all_present": "plackett_luce or all_pairs",
  "ranking_nll": "plackett_luce or ranking",
  "token_mean_nll": "sft or likelihood or tpo",
  "jensen_shannon": "js_divergence or jensen",
  "bounded_expm1": "alpha_divergence or alphapo or extremes",
  "length_desensitised": "desensitised or ld_alpha",
  "wpo_weights": "wpo",
  "mean_reward_gap": "gap or beta_is",
  "running_mean": "running",
  "reward_shift": "shift",
  "with_margin": "margin",
  "smoothed": "cdpo or smoothing",
  "per_token": "dpo_norm or ipo or simpo",
  "mean_logit": "dpo_norm or ipo",
  "minus_margin": "margin or weighted",
  "ranked_log_ratios": "plackett_luce_dpo",
  "single_log_ratios": "kto or bco",
  "mismatched_log_ratios": "kto",
  "weighted_mean": "weighted or weight",
  "get_divergence": "divergence",
  "_token_ratios": "sums_alone or tokens",
  "_ratios": "of_ratios or oracle",
  "arguments": "of_ratios or oracle",
  "_check": "trap_1",
  "_array": "lists",
}
TIMEOUT = 1800  # seconds, of a machine that may be busy


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Imports one module from the text given instead of its file."""

  def __init__(self, module: str, source: str, path: pathlib.Path):
    self.module, self.source, self.path = module, source, path

  def find_spec(self, fullname, path=None, target=None):
    if fullname != self.module:
      return None
    package = [str(self.path.parent)] if self.path.name == "__init__.py" else None
    spec = importlib.util.spec_from_loader(fullname, self, origin=str(self.path), is_package=package is not None)
    if spec is not None and package:
      spec.submodule_search_locations = package
    return spec

  def exec_module(self, module):
    exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def notices(module: str, source: str, path: pathlib.Path, function: str, quick: bool = False) -> bool:
  """Whether a test fails on the changed module. Runs in a child that may do as it likes."""
  import pytest

  sys.meta_path.insert(0, Changed(module, source, path))
  # The project's own options are left out: some are xdist's, which would start processes.
  own = ("-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist")
  quiet = ["-q", "-x", "--no-header", "--tb=no", "--hypothesis-seed=0", *own]
  for names, files in runs(path, function, quick):
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
      code = pytest.main([*quiet, "-k", names, *files])
    if code not in (0, 5):  # 5: no test has that name
      return True
    for name in [n for n in sys.modules if n.startswith("test_")]:
      del sys.modules[name]
  return False


def runs(path: pathlib.Path, function: str, quick: bool) -> list[tuple[str, list[str]]]:
  """What to run, one after another: an expression for `pytest -k`, and files."""
  name = path.relative_to(ROOT / "dpojax").as_posix()
  if name in POLICY_GRADIENTS:
    return [("", [str(ROOT / "tests" / file)]) for file in POLICY_GRADIENTS[name]]
  files = [str(TESTS / file) for file in FILES]
  return [(names, files[chosen]) for names, chosen in ([*stages(function)[:2], QUICK] if quick else stages(function))]


def stages(function: str) -> list[tuple[str, slice]]:
  """What to run, quickest first: an expression for `pytest -k`, and which of FILES."""
  outer = function.split(".")[0]
  named = NAMED.get(outer, "" if outer.startswith("_") or not outer.isidentifier() else outer)
  if not named:
    return [("not float32", slice(None)), ("float32", slice(None))]
  narrow = [(f"float64 and not trl and ({named})", slice(0, 1)), (named, slice(None))]
  return [*narrow, ("not extremes", slice(1, None))]


def forked(*arguments) -> str:
  """killed, survived or timeout."""
  child = os.fork()
  if child == 0:
    code = 2
    with contextlib.suppress(BaseException):
      code = 1 if notices(*arguments) else 0
    os._exit(code)
  deadline = time.monotonic() + TIMEOUT
  while time.monotonic() < deadline:
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
      # A child that broke down could not even import the module.
      return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
    time.sleep(0.02)
  os.kill(child, 9)
  os.waitpid(child, 0)
  return "timeout"


def table(results: list[dict]) -> str:
  """Mutants tried and killed by file."""
  count = collections.Counter((r["file"], r["outcome"]) for r in results)
  lines = ["| file | mutants | killed | survived |", "|:--|--:|--:|--:|"]
  files = sorted({r["file"] for r in results})
  for name in [*files, "all"]:
    of = lambda outcome, name=name: sum(count[f, outcome] for f in files if name in (f, "all"))  # noqa: E731
    killed = of("killed") + of("timeout")
    lines.append(f"| {name} | {killed + of('survived')} | {killed} | {of('survived')} |")
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("mutants.jsonl"))
  parser.add_argument("--only", nargs="*", default=[], help="file names")
  parser.add_argument("--share", type=float, default=1.0, help="of the mutants, drawn by the hash of their source")
  parser.add_argument("--quick", action="store_true", help="only the tests named after the function that was changed")
  parser.add_argument("--survivors", action="store_true", help="run those that survived again")
  parser.add_argument("--policy-gradients", action="store_true", help="break POLICY_GRADIENTS instead")
  options = parser.parse_args()
  os.chdir(ROOT)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
  sys.path[:0] = [str(ROOT), str(TESTS), str(pathlib.Path(__file__).parent)]
  # Imported before the forks, but used by none of them: no thread of JAX has started.
  import hypothesis  # noqa: F401
  import jax  # noqa: F401
  import pytest  # noqa: F401
  from mutants import mutants

  known = {}
  if options.out.exists():
    known = {(r["file"], r["after_source"]): r for r in map(json.loads, options.out.read_text().splitlines())}
  if options.survivors:
    known = {key: r for key, r in known.items() if r["outcome"] == "killed"}
  if options.policy_gradients:
    paths = {name: ROOT / "dpojax" / name for name in POLICY_GRADIENTS}
    paths = {name: path for name, path in paths.items() if not options.only or name in options.only}
    whole = list(paths.values())
  else:
    skipped = SKIPPED | {pathlib.Path(name).name for name in POLICY_GRADIENTS if name.startswith("losses/")}
    paths = {path.name: path for path in sorted(LOSSES.glob("*.py")) if path.name not in skipped}
    whole = [] if options.quick else [LOSSES / "__init__.py"]
  if any(forked("no.such.module", "", path, "") != "survived" for path in whole):
    raise SystemExit("the tests fail on the package as it is")
  results = []
  for name, path in paths.items():
    if options.only and name not in options.only:
      continue
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(parts[:-1] if path.stem == "__init__" else parts)
    for mutant in mutants(path.read_text(encoding="utf-8")):
      key = (name, hash_of(mutant.source))
      if int(key[1], 16) >= options.share * 2**64:
        continue
      if key not in known:
        outcome = forked(module, mutant.source, path, mutant.function, options.quick)
        known[key] = dict(
          file=name,
          line=mutant.line,
          function=mutant.function,
          before=mutant.before,
          after=mutant.after,
          outcome=outcome,
          after_source=key[1],
        )
        with options.out.open("a") as log:
          log.write(json.dumps(known[key]) + "\n")
      results.append(known[key])
      if known[key]["outcome"] != "killed":
        r = known[key]
        print(f"{r['outcome']}: {r['file']}:{r['line']} {r['function']}: {r['before']}  ->  {r['after']}", flush=True)
  print(table(results))


def hash_of(text: str) -> str:
  import hashlib

  return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
  main()
