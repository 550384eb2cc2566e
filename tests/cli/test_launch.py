"""The restart that tunes a process: once, only for commands that compute, and nothing that a user could notice is lost.

The command in these processes is a stand-in, put in its place by a sitecustomize.py, so that a process takes 0.1 s.
"""

import json
import os
import pathlib
import pty
import runpy
import signal
import subprocess
import sys

import pytest

from dpojax.cli import launch
from dpojax.cli.main import main
from dpojax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]

STAND_IN = """
import json, os, signal, sys, time, types
if os.environ.get("STARTS"):
  open(os.environ["STARTS"], "a").write(f"{os.getpid()}\\n")

def main(arguments):
  began = open("/proc/self/environ").read().split("\\0")  # what glibc saw, whatever was changed since
  report = {
    "began": dict(line.split("=", 1) for line in began if "=" in line),
    "environment": dict(os.environ),
    "pid": os.getpid(),
    "arguments": arguments,
    "terminal": [os.isatty(n) for n in range(3)],
  }
  what = arguments[0] if arguments else "report"
  if what == "stdin":
    report["read"] = sys.stdin.read()
  signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in the background
  if what == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  print(json.dumps(report), flush=True)
  if what in ("wait", "idle"):
    while True:
      time.sleep(0.1)  # a signal just before `signal.pause` would never be seen
  return int(arguments[1]) if what == "exit" else 0

for name in ("train", "sweep", "eval", "score", "sample", "bt", "data", "export"):
  module = types.ModuleType(f"dpojax.cli.{name}")
  module.main = main
  sys.modules[module.__name__] = module
"""
OURS = {launch.TUNABLES, launch.LAUNCH, *launch.CACHES, launch.RESTARTED, "LD_PRELOAD"}

needs_huge_pages = pytest.mark.skipif(
  not launch.allocator_settings({}), reason="needs glibc and a kernel that gives huge pages on request"
)


@pytest.fixture
def dpojax(tmp_path):
  """Starts `python -m dpojax` with stand-ins for its commands; `starts()` counts interpreters."""
  (tmp_path / "sitecustomize.py").write_text(STAND_IN)
  (tmp_path / "dpojax").write_text("import sys\nfrom dpojax.cli.launch import command\nsys.exit(command())\n")
  file = tmp_path / "starts"

  class Start:
    def __call__(self, *arguments, front=("-m", "dpojax"), environment=None, **options):
      clean = {name: value for name, value in os.environ.items() if name not in OURS}
      path = os.pathsep.join([str(tmp_path), str(ROOT)])
      variables = clean | {"PYTHONPATH": path, "STARTS": str(file)} | (environment or {})
      file.unlink(missing_ok=True)
      options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
      return subprocess.Popen([sys.executable, *front, *arguments], env=variables, text=True, cwd=tmp_path, **options)

    def report(self, *arguments, **options):
      process = self(*arguments, **options)
      out, errors = process.communicate(timeout=60)
      assert process.returncode == 0 and errors == "", errors
      return json.loads(out)

    def starts(self):
      return file.read_text().split()

  return Start()


@needs_huge_pages
@pytest.mark.parametrize("front", [("-m", "dpojax"), ("dpojax",), ("-X", "utf8", "-m", "dpojax")])
def test_a_computing_command_starts_again_once_as_the_same_process(dpojax, tmp_path, front):
  front = (str(tmp_path / "dpojax"),) if front == ("dpojax",) else front
  process = dpojax("sample", "report", "a b", "--x=ü", front=front)
  report = json.loads(process.communicate(timeout=60)[0])
  assert dpojax.starts() == [str(process.pid)] * 2 and report["pid"] == process.pid
  assert report["arguments"] == ["report", "a b", "--x=ü"]
  assert report["began"][launch.TUNABLES] == "glibc.malloc.hugetlb=1"


@needs_huge_pages
def test_processes_that_a_command_starts_do_not_get_its_settings(dpojax):
  environment = dpojax.report("train", environment={launch.TUNABLES: "glibc.malloc.check=0"})["environment"]
  assert {name: environment[name] for name in OURS & set(environment)} == {
    launch.TUNABLES: "glibc.malloc.check=0",
    **{name: environment[name] for name in launch.CACHES},
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  "arguments, environment",
  [
    (("bt", "report"), {}),
    (("data", "report"), {}),
    (("export", "report"), {}),
    (("train", "report", "--help"), {}),
    (("train", "report"), {launch.LAUNCH: "plain"}),
    (("train", "report"), {"JAX_PLATFORMS": "tpu,cpu"}),
    (("train", "report"), {"LD_PRELOAD": "libtcmalloc.so.4"}),
    (("train", "report"), {launch.RESTARTED: "{}"}),
    (("train", "report"), {launch.RESTARTED: "nonsense"}),
  ],
)
def test_what_starts_once(dpojax, arguments, environment):
  options = {"stderr": subprocess.DEVNULL} if "LD_PRELOAD" in environment else {}  # the loader does not find it
  process = dpojax(*arguments, environment=environment, **options)
  report = json.loads(process.communicate(timeout=60)[0])
  assert dpojax.starts() == [str(process.pid)]
  assert launch.TUNABLES not in report["began"]
  named = launch.LAUNCH not in environment and arguments[0] in launch.COMPUTING and "--help" not in arguments
  assert {name for name in launch.CACHES if name in report["environment"]} == (set(launch.CACHES) if named else set())


def test_an_unknown_way_to_launch_is_an_error(dpojax):
  process = dpojax("train", environment={launch.LAUNCH: "fast"})
  out, errors = process.communicate(timeout=60)
  assert (process.returncode, out) == (2, "")
  assert errors == "dpojax: error: DPOJAX_LAUNCH=fast: it may be 'plain', or not set\n"
  with pytest.raises(ConfigError):
    launch.is_plain({launch.LAUNCH: "Plain"})


@needs_huge_pages
@pytest.mark.parametrize(
  "tunables, merged",
  [
    (None, "glibc.malloc.hugetlb=1"),
    ("", "glibc.malloc.hugetlb=1"),
    (
      "glibc.malloc.mmap_max=7:glibc.malloc.perturb=0",
      "glibc.malloc.mmap_max=7:glibc.malloc.perturb=0:glibc.malloc.hugetlb=1",
    ),
    ("glibc.malloc.hugetlb=0", None),
    ("glibc.malloc.check=0:glibc.malloc.hugetlb=2", None),
  ],
)
def test_what_the_user_has_set_stays(tunables, merged):
  environment = {} if tunables is None else {launch.TUNABLES: tunables}
  assert launch.allocator_settings(environment) == ({} if merged is None else {launch.TUNABLES: merged})


@pytest.mark.parametrize(
  "enabled", ["always [madvise] never", "[always] madvise never", "always madvise [never]", None]
)
def test_there_is_no_restart_where_the_kernel_gives_no_huge_pages_on_request(tmp_path, monkeypatch, enabled):
  if enabled is not None:
    (tmp_path / "enabled").write_text(enabled + "\n")
  monkeypatch.setattr(launch, "KERNEL", tmp_path / "enabled")
  monkeypatch.setattr(launch, "_on_glibc", lambda: True)
  assert bool(launch.allocator_settings({})) == (enabled is not None and "[madvise]" in enabled)


@pytest.mark.parametrize("platforms, tuned", [("", True), ("cpu", True), ("cuda,cpu", False)])
def test_where_arrays_live_elsewhere_there_is_no_restart(tmp_path, monkeypatch, platforms, tuned):
  (tmp_path / "enabled").write_text("[madvise]")
  monkeypatch.setattr(launch, "KERNEL", tmp_path / "enabled")
  monkeypatch.setattr(launch, "_on_glibc", lambda: True)
  assert bool(launch.allocator_settings({"JAX_PLATFORMS": platforms})) == tuned
  assert launch.allocator_settings({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_exit_codes_pass(dpojax, code):
  process = dpojax("score", "exit", str(code))
  process.communicate(timeout=60)
  assert process.returncode == code


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, what, sent, code",
  [
    ("train", "wait", signal.SIGTERM, 75),
    ("train", "idle", signal.SIGTERM, 75),
    ("score", "idle", signal.SIGTERM, 143),
    ("score", "idle", signal.SIGINT, 130),
  ],
)
def test_signals_reach_the_command(dpojax, name, what, sent, code):
  process = dpojax(name, what)
  assert process.stdout is not None
  process.stdout.readline()  # it is there
  process.send_signal(sent)
  process.communicate(timeout=60)
  assert process.returncode == code


def test_an_ignored_hang_up_stays_ignored(dpojax):
  process = dpojax("train", "wait", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
  assert process.stdout is not None
  process.stdout.readline()
  process.send_signal(signal.SIGHUP)
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 75


def test_standard_input_and_the_terminal_are_still_there(dpojax):
  process = dpojax("sample", "stdin", stdin=subprocess.PIPE)
  assert json.loads(process.communicate("text to read", timeout=60)[0])["read"] == "text to read"
  ours, theirs = pty.openpty()
  try:
    process = dpojax("sample", stdin=theirs, stderr=theirs)
    assert json.loads(process.communicate(timeout=60)[0])["terminal"] == [True, False, True]
  finally:
    os.close(ours)
    os.close(theirs)


def test_python_that_calls_a_command_is_not_restarted(monkeypatch, capsys):
  calls = []
  monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
  monkeypatch.delenv(launch.LAUNCH, raising=False)
  monkeypatch.setattr(sys, "argv", ["dpojax", "sample", "--nothing"])
  before = dict(os.environ)
  assert main(["sample", "--nothing"]) == 2
  assert dict(os.environ) == before
  for name in launch.CACHES:
    monkeypatch.setenv(name, "")  # what follows would name it for the tests after this one
  with pytest.raises(SystemExit):
    runpy.run_module("dpojax", run_name="__main__")  # as a notebook may do it
  assert calls == []


@needs_huge_pages
def test_a_restart_that_is_refused_leaves_the_command_running(monkeypatch):
  def refuse(*arguments):
    calls.append(arguments)
    raise PermissionError(13, "no")

  calls = []
  monkeypatch.setattr(os, "execve", refuse)
  monkeypatch.setattr(launch, "_is_ours_alone", lambda: True)
  launch.restart()
  assert len(calls) == 1


@pytest.mark.parametrize("name, kept", [("DPOJAX_COMPILATION_CACHE", "xla"), ("DPOJAX_TOKEN_CACHE", "tokens")])
def test_where_programs_and_tokens_are_kept(monkeypatch, name, kept):
  for other in launch.CACHES:
    monkeypatch.setenv(other, "")
  for base, folder in (("/cache", "/cache/dpojax"), ("here", "/home/me/.cache/dpojax"), ("", "/home/me/.cache/dpojax")):
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv(name, raising=False)
    launch.name_cache_folders()
    assert os.environ[name] == f"{folder}/{kept}"
  monkeypatch.setenv(name, "")
  launch.name_cache_folders()
  assert os.environ[name] == ""
