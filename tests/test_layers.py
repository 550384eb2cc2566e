"""The layers: a file imports only from layers below its own or from its own package, and nowhere in a circle.

The imports are read from the source, so that a lazy one inside a function, and one for type annotations, count too.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "dpojax"

# Lowest first. The longest matching name decides.
LAYERS = [
  ["dpojax.terminal"],
  ["dpojax.markdown", "dpojax.plot_text", "dpojax.screen"],
  ["dpojax.errors", "dpojax.types", "dpojax.files", "dpojax.signals", "dpojax.metrics"],
  ["dpojax.disk_cache", "dpojax.digests", "dpojax.losses"],
  ["dpojax.config.option"],
  ["dpojax.config.on_policy"],
  [
    "dpojax.config.schema",
    "dpojax.config.keys",
    "dpojax.config.foreign_keys",
    "dpojax.config.record",
    "dpojax.config.resolved",
    "dpojax.config.describe",
  ],
  ["dpojax.rewards.spec", "dpojax.rewards.terms"],
  ["dpojax.config.experiment"],
  ["dpojax.parallel"],
  ["dpojax.bradley_terry", "dpojax.ops"],
  ["dpojax.interop"],
  ["dpojax.models"],
  ["dpojax.environments"],
  ["dpojax.data"],
  ["dpojax.rollout", "dpojax.scoring", "dpojax.objectives", "dpojax.evaluation"],
  ["dpojax.references", "dpojax.rewards"],
  ["dpojax.training"],
  ["dpojax.report"],
  ["dpojax.recipes"],
  ["dpojax.sweeps"],
  ["dpojax.config"],
  ["dpojax"],
  ["dpojax.cli"],
  ["dpojax.__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Third-party packages that only these may import; an empty list: nobody.
ONLY = {
  "ml_collections": ["dpojax.config.load"],
  "absl": ["dpojax.config.load"],
  "matplotlib": ["dpojax.report", "dpojax.plot_text", "dpojax.bradley_terry.plots"],
  "altair": ["dpojax.report.page"],
  "vl_convert": ["dpojax.report.page"],
  "orbax": ["dpojax.training"],
  "optax": ["dpojax.training"],
  "torch": [],
  "transformers": [],
}
# Packages that these may not import: the data path and the evaluation are NumPy only.
NEVER = {"dpojax.data": ["jax", "flax", "optax"], "dpojax.evaluation": ["jax", "flax", "optax"]}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module):
  """(name of the layer's entry, its level) by the longest entry that `module` lies in."""
  parts = module.split(".")
  for end in range(len(parts), 0, -1):
    name = ".".join(parts[:end])
    if name in LEVEL:
      return name, LEVEL[name]
  raise AssertionError(f"{module} belongs to no layer of tests/test_layers.py")


def imports_of(source, modules):
  """(line, module) of every import; `from package import module` counts as the module."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"line {node.lineno}: relative imports hide the layer; write the full name"
      for alias in node.names:
        if alias.name == "__version__":
          continue  # a fact about the package, not a part of it
        full = f"{node.module}.{alias.name}"
        yield node.lineno, full if full in modules else node.module


def violations(module, source, modules):
  package, level = layer_of(module)
  for line, imported in imports_of(source, modules):
    if imported.split(".")[0] == "dpojax":
      other, below = layer_of(imported)
      same_package = below == level and other.split(".")[:2] == package.split(".")[:2]
      if below >= level and not same_package:
        yield f"{module}:{line} imports {imported}, which is not below it"
      continue
    top = imported.split(".")[0]
    if top in ONLY and not any(layer_or_inside(module, name) for name in ONLY[top]):
      yield f"{module}:{line} imports {top}, which belongs to {ONLY[top] or 'no module'}"
    if any(layer_or_inside(module, name) and top in banned for name, banned in NEVER.items()):
      yield f"{module}:{line} imports {top}"


def layer_or_inside(module, name):
  return module == name or module.startswith(f"{name}.")


MODULES = {module_of(path) for path in FILES}


SOURCES = {module_of(path): path.read_text(encoding="utf-8") for path in FILES}


@pytest.mark.slow
def test_imports_point_down():
  found = [line for module, source in SOURCES.items() for line in violations(module, source, MODULES)]
  assert not found, "\n".join(found)


@pytest.mark.parametrize(
  "module, source",
  [
    ("dpojax.losses.dpo", "from dpojax.training import step"),
    ("dpojax.data.batches", "def f():\n  import jax"),
    ("dpojax.report.tables", "from dpojax.sweeps.grid import Grid"),
    ("dpojax.config.schema", "from dpojax.config.load import base"),
    ("dpojax.training.loop", "from dpojax import load_config"),
    ("dpojax.models.decoder", "import ml_collections"),
  ],
)
def test_the_check_sees_what_is_wrong(module, source):
  assert len(list(violations(module, source, MODULES))) == 1


# Modules in a circle that may stay for now, and why.
CIRCLES: dict[frozenset[str], str] = {}


def graph_of(sources):
  """module -> modules of ours that it imports, with the packages whose `__init__` runs on the way to them.

  A module's own packages are left out: they have begun when it begins.
  """
  graph = {}
  for module, source in sources.items():
    edges = set()
    for _, imported in imports_of(source, sources.keys()):
      parts = imported.split(".")
      packages = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
      edges |= {name for name in packages if name == imported or not layer_or_inside(module, name)}
    graph[module] = edges & sources.keys() - {module}
  return graph


def circles(graph):
  """Sets of modules each of which imports every other, through others (Tarjan 1972)."""
  number, lowest, stack, found = {}, {}, [], []

  def visit(module):
    number[module] = lowest[module] = len(number)
    stack.append(module)
    for other in sorted(graph[module]):
      if other not in number:
        visit(other)
      if other in stack:
        lowest[module] = min(lowest[module], lowest[other])
    if lowest[module] == number[module]:
      members = stack[stack.index(module) :]
      del stack[stack.index(module) :]
      if len(members) > 1:
        found.append(frozenset(members))

  for module in sorted(graph):
    if module not in number:
      visit(module)
  return found


@pytest.mark.slow
def test_no_imports_go_in_a_circle():
  graph = graph_of(SOURCES)
  found = set(circles(graph))
  lines = [
    "\n".join(f"{module} imports {', '.join(sorted(graph[module] & members))}" for module in sorted(members))
    for members in found - CIRCLES.keys()
  ]
  assert not lines, "\n\n".join(lines)
  assert found == CIRCLES.keys()  # none that is gone is still allowed


@pytest.mark.parametrize(
  "sources, circle",
  [
    ({"dpojax.a": "import dpojax.b", "dpojax.b": "def f():\n  from dpojax.a import x"}, "a b"),
    (
      {"dpojax.a": "from dpojax import b", "dpojax.b": "import dpojax.c", "dpojax.c": "from dpojax.a import x"},
      "a b c",
    ),
    ({"dpojax.p": "from dpojax.p.a import x", "dpojax.p.a": "from dpojax.p import x"}, "p p.a"),
    # Importing p.a runs p, which imports b.
    ({"dpojax.p": "import dpojax.b", "dpojax.p.a": "", "dpojax.b": "from dpojax.p.a import x"}, "b p"),
    ({"dpojax.p": "from dpojax.p.a import x", "dpojax.p.a": "from dpojax.p.b import x", "dpojax.p.b": ""}, ""),
    ({"dpojax.a": "import dpojax.c, dpojax.b", "dpojax.b": "import dpojax.c", "dpojax.c": "import numpy"}, ""),
  ],
)
def test_the_check_sees_circles(sources, circle):
  wanted = {frozenset(f"dpojax.{name}" for name in circle.split())} if circle else set()
  assert set(circles(graph_of(sources))) == wanted


def test_no_file_needs_a_table_of_contents():
  long = {module: n for module, source in SOURCES.items() if (n := len(source.splitlines())) > 400}
  assert long == {}
