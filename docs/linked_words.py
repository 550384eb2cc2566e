"""Code words in the text become links: `docs/losses.md`, `loss.beta`, `rewards/margins`, `dpojax/types.py`, `dpojax.losses.dpo`.

So the pages can be read as plain files, where a link would only be in the way, and on the site each word leads to its place.
"""

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from make_site import anchor

from dpojax.config.keys import fields_by_key
from dpojax.losses import LOSSES
from dpojax.metrics import METRICS

PAGE = re.compile(r"(?<!\[)`docs/([a-z_]+)\.md(#[\w-]+)?`")
BLOCK = ".. code-block:: text"
FILE = re.compile(r"dpojax/([\w/]+)\.py")
SETTINGS, OF_METRICS, OF_LOSSES = "generated/settings", "generated/metrics", "losses"


def connect(app: Any) -> None:
  """Listens to what Sphinx reads and writes."""
  app.connect("source-read", link_pages)
  app.connect("autodoc-process-docstring", as_restructured_text, priority=100)  # before napoleon reads its sections
  app.connect("doctree-resolved", link_words)


def link_pages(app: Any, name: str, source: list[str]) -> None:
  """`docs/losses.md` becomes a link with that page's title."""
  if app.env.doc2path(name, base=False).suffix == ".md":
    source[0] = PAGE.sub(r"[](/\1.md\2)", source[0])


def as_restructured_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
  """Docstrings are written for people who read the source: one backtick for code, `**` and `|` for what they are."""
  if what == "module":
    lines[:] = with_blocks(lines)
  literal = None  # indentation above which a block lies that stands as it is
  for i, line in enumerate(lines):
    indent = len(line) - len(line.lstrip())
    if literal is not None and line.strip() and indent <= literal:
      literal = None
    if literal is None:
      lines[i] = inline(line)
      if line.rstrip().endswith("::") or line.lstrip().startswith(BLOCK):
        literal = indent


def with_blocks(lines: list[str]) -> list[str]:
  """Paragraphs of a module's docstring whose lines are indented, such as small tables, as they stand."""
  found, literal = [], False
  for paragraph in paragraphs(lines):
    ragged = any(line.startswith(" ") for line in paragraph)
    other = paragraph[0].startswith("- ") or re.fullmatch(r"[A-Z]\w+:", paragraph[0])  # a list, or a section
    if ragged and not other and not literal:
      found += [BLOCK, "", *(f"  {line}" for line in paragraph), ""]
    else:
      found += [*paragraph, ""]
    literal = paragraph[-1].rstrip().endswith("::") or (literal and all(line.startswith(" ") for line in paragraph))
  return found


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
  """Blocks between empty lines."""
  block: list[str] = []
  for line in [*lines, ""]:
    if line.strip():
      block.append(line)
    elif block:
      yield block
      block = []


def inline(line: str) -> str:
  """A line of a docstring with code in double backticks, and stars, bars and trailing underscores of the text escaped."""
  if line.lstrip().startswith((">>>", "...", ":", "..")):
    return line
  parts = re.split(r"(``.+?``|`[^`]+`)", line)
  for i, part in enumerate(parts):
    if part.startswith("``"):
      continue
    if part.startswith("`") and part.endswith("`") and len(part) > 1:
      after = parts[i + 1] if i + 1 < len(parts) else ""
      parts[i] = f"``{part[1:-1]}``" + ("\\ " if after[:1].isalnum() else "")
    else:
      parts[i] = re.sub(r"([*|])|(?<=\w)_(?=\W|$)", lambda found: "\\" + found.group(), part)
  return "".join(parts)


def link_words(app: Any, tree: nodes.document, name: str) -> None:
  """Turns literal text that names a setting, a metric, a loss, a file or an object of dpojax into a link."""
  if app.builder.format != "html":
    return
  objects = app.env.get_domain("py").objects
  sources = getattr(app.env, "_viewcode_modules", {})
  keys = fields_by_key()
  for literal in list(tree.findall(nodes.literal)):
    if isinstance(literal.parent, nodes.reference) or any(isinstance(up, nodes.title) for up in parents(literal)):
      continue
    text = literal.astext()
    key = text.split("=")[0].removeprefix("--config.")
    place = None
    if key in keys and ("." in key or key == "recipe"):
      place = SETTINGS, anchor("setting", key)
    elif text in METRICS and "/" in text:  # `loss` and `beta` mean other things too
      place = OF_METRICS, anchor("metric", text)
    elif text in LOSSES and name != OF_LOSSES and text != "sft":  # a recipe, too
      place = OF_LOSSES, text.replace("_", "-")
    elif found := FILE.fullmatch(text):
      module = f"dpojax.{found[1].replace('/', '.')}".removesuffix(".__init__")
      place = (f"_modules/{module.replace('.', '/')}", "") if sources.get(module) else None
    elif text in objects and objects[text].docname != name:
      place = objects[text].docname, objects[text].node_id
    if place is None:
      continue
    page, id_ = place
    target = app.builder.get_relative_uri(name, page) + (f"#{id_}" if id_ else "")
    link = nodes.reference("", "", literal.deepcopy(), internal=True, refuri=target)
    literal.parent.replace(literal, link)


def parents(node: nodes.Node):
  """The nodes above one."""
  while node.parent is not None:
    node = node.parent
    yield node
