"""Draws the house: packages in layers, and an arrow for each import, read from the source.

python docs/make_house.py house.svg
"""

import ast
import collections
import html
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
BOX, GAP, ROW = 118, 18, 84
MARGIN = 24


def package_of(module: str) -> str:
  """The box that a module stands in: its package, or `dpojax` for the single files at the top."""
  parts = module.split(".")
  return (
    ".".join(parts[:2])
    if (ROOT / "dpojax" / (parts[1] if len(parts) > 1 else "")).is_dir() and len(parts) > 1
    else "dpojax"
  )


def imports() -> dict[str, set[str]]:
  """Package -> packages whose modules it imports, at the top of a file or inside a function."""
  found: dict[str, set[str]] = collections.defaultdict(set)
  for path in sorted((ROOT / "dpojax").rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = package_of(".".join(parts))
    found[own] |= set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      names = []
      if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dpojax":
        names = [f"{node.module}.{alias.name}" if node.module == "dpojax" else node.module for alias in node.names]
      elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names if alias.name.split(".")[0] == "dpojax"]
      found[own] |= {package_of(name) for name in names} - {own, "dpojax"}
  found.pop("dpojax")  # names at the top, and small files that anybody may read
  return dict(found)


def layers(graph: dict[str, set[str]]) -> list[list[str]]:
  """Packages lowest first, each above all that it imports.

  `config` holds the schema, which is low, and its loading, which is high: what others import of it is the schema, so
  it is placed by what imports it.
  """
  low = "dpojax.config"
  edges = {name: {other for other in seen if other in graph} for name, seen in graph.items()}
  edges[low] = set()
  rank: dict[str, int] = {}

  def height(name: str, path: tuple[str, ...] = ()) -> int:
    if name in path:
      raise ValueError(f"imports go in a circle: {' > '.join((*path, name))}")
    if name not in rank:
      rank[name] = 1 + max((height(other, (*path, name)) for other in edges[name]), default=-1)
    return rank[name]

  for name in edges:
    height(name)
  found: dict[int, list[str]] = collections.defaultdict(list)
  for name in sorted(rank):
    found[rank[name]].append(name)
  return [found[level] for level in sorted(found)]


GRAPH = imports()
LAYERS = layers(GRAPH)


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
  """Without arrows that a longer way stands for, so that what is left can be read."""
  graph = {name: set(seen) for name, seen in graph.items()}
  graph["dpojax.config"] = set()

  def reach(name: str) -> set[str]:
    return {further for other in graph[name] for further in (other, *reach(other))}

  return {name: {o for o in seen if not any(o in reach(p) for p in seen - {o})} for name, seen in graph.items()}


def house_svg() -> str:
  """The picture: the top of the house above, an arrow from who imports to what is imported."""
  top_first = LAYERS[::-1]
  width = max(map(len, LAYERS)) * (BOX + GAP) - GAP + 2 * MARGIN
  centre = {}
  for row, names in enumerate(top_first):
    whole = len(names) * BOX + (len(names) - 1) * GAP
    for place, name in enumerate(names):
      centre[name] = ((width - whole) / 2 + place * (BOX + GAP) + BOX / 2, MARGIN + row * ROW + 20)
  height = MARGIN * 2 + (len(top_first) - 1) * ROW + 40
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="Packages of dpojax and their imports" '
    'font-family="system-ui, sans-serif" font-size="14">',
    "<style>.box{fill:#eef3fb;stroke:#4a6fa5}.name{fill:#14233c}.arrow{stroke:#7b8794;fill:none}.head{fill:#7b8794}"
    "a:hover .box{fill:#d5e3f8}</style>",
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0 0 L8 4 L0 8 Z"/></marker></defs>',
  ]
  for name, seen in sorted(reduced(GRAPH).items()):
    for other in sorted(seen):
      (x, y), (u, v) = centre[name], centre[other]
      bend = (v - y) / 2
      lines.append(
        f'<path class="arrow" marker-end="url(#head)" d="M{x:.0f} {y + 18:.0f} C{x:.0f} {y + bend:.0f} {u:.0f} {v - bend:.0f} {u:.0f} {v - 20:.0f}"/>'
      )
  for name, (x, y) in centre.items():
    short = html.escape(name.removeprefix("dpojax."))
    target = f'href="generated/api/{name}.html" target="_top"'
    lines.append(
      f'<a {target}><rect class="box" x="{x - BOX / 2:.0f}" y="{y - 18:.0f}" width="{BOX}" height="36" rx="6"/>'
      f'<text class="name" x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{short}</text></a>'
    )
  return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
  pathlib.Path(sys.argv[1]).write_text(house_svg(), encoding="utf-8")
