"""Writes docs/generated: the pages that are made from the code while the site is built. Nothing there is committed.

python docs/make_site.py

`house.svg` and `house.md` (packages and their imports), `settings.md`, `metrics.md`, `api/` (one page a package, from
docstrings), and copies of CHANGELOG.md, CONTRIBUTING.md and experiments/README.md as pages.
"""

import importlib
import pathlib
import re

from make_house import LAYERS, house_svg, package_of

from dpojax.config.keys import SECTIONS, fields_by_key
from dpojax.config.schema import RunConfig
from dpojax.metrics import METRICS

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"
NO_PAGE = ("dpojax.__main__",)
SPLITS = {
  "train": "Of every step",
  "eval": "",
  "policy": "Of what the policy writes between steps",
  "under_budget": "Of checkpoints that are kept",
  "rollout": "Of roll-outs",
  "report": "Made by reports",
}


def anchor(kind: str, name: str) -> str:
  """The id of a setting's or a metric's row: "setting-loss-beta"."""
  return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


def cell(text: str) -> str:
  """Text as a cell of a Markdown table."""
  return re.sub(r"(?<!`)\b([a-z_]+)\.md\b", r"\1.md", text).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def settings_page() -> str:
  """Every setting with its default, range and meaning, a table a section."""
  parts = [
    "# Settings\n\nA setting is changed in the config file (`config.loss.beta = 0.2`) or by `--config.loss.beta=0.2`; a typo "
    "fails with the nearest key. A run goes on when a setting marked *execution* has changed; another one that changed is "
    "refused with the difference. `dpojax train --help` prints the same list."
  ]
  defaults, before = RunConfig(), None
  for key, field in fields_by_key().items():
    section = key.rpartition(".")[0]
    if section != before:
      parts.append(heading(section, defaults))
      before = section
    parts[-1] += row(key, field)
  return "\n\n".join(parts) + "\n"


def heading(section: str, defaults: RunConfig) -> str:
  """The head of a section's table."""
  readers = [recipe for recipe, sections in SECTIONS.items() if section in sections]
  said = (type(getattr(defaults, section)).__doc__ or "").strip() if section else ""
  said = "" if said.startswith(type(getattr(defaults, section, None)).__name__ + "(") else said  # a dataclass's own
  by = (
    ""
    if not section
    else "Read by every recipe."
    if len(readers) == len(SECTIONS)
    else f"Read by recipes {', '.join(readers)}."
  )
  text = " ".join(part for part in (said, by) if part)
  table = "| setting | default | meaning |\n|:--|:--|:--|\n"
  return f"## {section or 'The run'}\n\n{text}\n\n{table}" if text else f"## {section or 'The run'}\n\n{table}"


def row(key: str, field) -> str:
  """A setting's line."""
  facts = field.metadata
  default = (
    {"": "empty", None: "left open"}.get(field.default, f"`{field.default}`")
    if not isinstance(field.default, bool)
    else f"`{field.default}`"
  )
  limits = [f"`{choice}`" for choice in facts["choices"] or ()]
  bounds = [
    f"{sign} {number(facts[name])}"
    for name, sign in (("minimum", "≥"), ("above", ">"), ("maximum", "≤"), ("below", "&lt;"))
    if facts[name] is not None and not (name == "maximum" and facts[name] == 2**31 - 1)
  ]
  more = "; ".join(part for part in ("one of " + ", ".join(limits) if limits else "", " and ".join(bounds)) if part)
  execution = " *execution*" if facts["execution"] else ""
  meaning = cell(facts["meaning"]) + (f" ({more})" if more else "") + execution
  return f"| [`{key}`](#{anchor('setting', key)}){{#{anchor('setting', key)}}} | {default} | {meaning} |\n"


def number(value: float) -> str:
  """A bound as people write it: 1,000,000, 0.5."""
  return f"{value:,g}" if value != int(value) else f"{int(value):,}"


def metrics_page() -> str:
  """Every metric with unit, meaning and formula, a table a split."""
  parts = [
    "# Metrics\n\nA line of `metrics.jsonl` is a step and a split (`train`, `eval`, `policy`, `rollout`) with these numbers; "
    "TensorBoard has the same names. Each is a sum divided once by a count over the whole step, whatever its row groups and "
    "devices. `X_error` is the standard error of `X` over prompts.\n\n"
    "π is the policy, π_ref the reference, β is `loss.beta`, w the chosen and l the rejected answer; log-probs are sums over an "
    "answer's tokens, in nats."
  ]
  by_split: dict[str, list[str]] = {}
  for name in METRICS:
    by_split.setdefault(METRICS[name].splits[0] if len(METRICS[name].splits) == 1 else "train and eval", []).append(
      name
    )
  heads = {
    "train and eval": "Of steps and evaluations (splits train and eval)",
    "train": "Of steps alone (split train)",
  }
  for split, names in by_split.items():
    title = heads.get(split) or f"{SPLITS[split]} (split {split})"
    lines = ["| metric | unit | meaning |", "|:--|:--|:--|"]
    for name in names:
      metric = METRICS[name]
      unit = metric.unit or ("fraction" if metric.fraction else "")
      formula = (
        f" `{metric.formula}`"
        if metric.formula and "`" not in metric.formula
        else f" {metric.formula}"
        if metric.formula
        else ""
      )
      lines.append(
        f"| [`{name}`](#{anchor('metric', name)}){{#{anchor('metric', name)}}} | {unit} | **{metric.label}.** {cell(metric.meaning)}{formula.replace('|', chr(92) + '|')} |"
      )
    parts += [f"## {title}", "\n".join(lines)]
  return "\n\n".join(parts) + "\n"


def modules() -> dict[str, list[str]]:
  """Modules of each package that has a page, the package itself first."""
  found: dict[str, list[str]] = {}
  for path in sorted((ROOT / "dpojax").rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    package = package_of(name)
    if not any(name == no or name.startswith(f"{no}.") for no in NO_PAGE) and not name.rpartition(".")[2].startswith(
      "_"
    ):
      found.setdefault(package, []).append(name)
  return found


def api_pages() -> dict[str, str]:
  """File name -> reStructuredText of the API reference."""
  pages, listed = {}, modules()
  order = [name for layer in LAYERS for name in layer if name in listed]
  for package in [*order, *(name for name in listed if name not in order)]:
    title = package if package != "dpojax" else "dpojax: names at the top, and single modules"
    lines = [title, "=" * len(title), ""]
    if package == "dpojax":
      lines += door()
    for module in listed[package]:
      if module == package:
        lines += [
          f".. automodule:: {module}",
          *(["   :members:", "   :ignore-module-all:"] if package != "dpojax" else []),
          "",
        ]
        continue
      lines += [
        module,
        "-" * len(module),
        "",
        f".. automodule:: {module}",
        "   :members:",
        "   :member-order: bysource",
        "",
      ]
    pages[package] = "\n".join(lines)
  names = [name for name in [*order, *(n for n in listed if n not in order)] if name != "dpojax"]
  lines = [
    "API reference",
    "=============",
    "",
    "From the docstrings, a page a package, lowest layer first. :doc:`/house` shows who imports whom.",
    "",
  ]
  lines += [".. toctree::", "   :maxdepth: 1", "", "   dpojax", *(f"   {name}" for name in names), ""]
  lines += [".. list-table::", "   :widths: 30 70", "", *(line for name in names for line in said(name))]
  return {"index": "\n".join(lines) + "\n", **pages}


def said(package: str) -> list[str]:
  """A line of the table of packages: its name, and the first sentence of its docstring."""
  text = (importlib.import_module(package).__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").replace("`", "``")
  return [f"   * - :doc:`{package}`", f"     - {text}"]


def door() -> list[str]:
  """Names that `import dpojax` has, with the places where they are documented."""
  import dpojax

  lines = ["``import dpojax`` has these names, each loaded when it is first used:", "", ".. list-table::", ""]
  for name in sorted(dpojax._HOME):  # dir() would also have what was imported by now
    thing = getattr(dpojax, name)
    home = (
      thing.__name__
      if hasattr(thing, "__path__") or type(thing).__name__ == "module"
      else f"{thing.__module__}.{thing.__qualname__}"
    )
    if not home.startswith("dpojax"):
      continue
    role = "py:mod" if type(thing).__name__ == "module" else "py:obj"
    first = thing.__doc__.strip().split("\n\n")[0].replace("\n", " ").replace("`", "``")
    lines += [f"   * - :{role}:`{name} <{home}>`", f"     - {' '.join(first.split())}"]
  return [*lines, ""]


def page_of(path: pathlib.Path) -> str:
  """A Markdown file from elsewhere in the repository, as a page: links to other files lose their target."""
  text = path.read_text(encoding="utf-8")
  text = re.sub(r"\]\((?:\.\./)?docs/([a-z_]+)\.md(#[\w-]+)?\)", r"](/\1.md\2)", text)
  images = re.compile(r"!\[([^\]]*)\]\((?:\.\./)?docs/(images/[^)]+)\)")
  return images.sub(r"![\1](/\2)", text)


def write() -> None:
  """Brings the folder up to date: a file that stays the same is left alone, so that Sphinx does not read it again."""
  (GENERATED / "api").mkdir(parents=True, exist_ok=True)
  texts = {
    "house.svg": house_svg(),
    "settings.md": settings_page(),
    "metrics.md": metrics_page(),
    "changes.md": page_of(ROOT / "CHANGELOG.md"),
    "contributing.md": page_of(ROOT / "CONTRIBUTING.md"),
    "experiments.md": page_of(ROOT / "experiments/README.md"),
    **{f"api/{name}.rst": text for name, text in api_pages().items()},
  }
  for path in GENERATED.rglob("*"):
    if path.is_file() and path.relative_to(GENERATED).as_posix() not in texts:
      path.unlink()
  for name, text in texts.items():
    path = GENERATED / name
    if not path.exists() or path.read_text(encoding="utf-8") != text:
      path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
  write()
