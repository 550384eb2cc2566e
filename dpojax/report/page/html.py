"""The page as one file: everything it needs is inside, and it may fetch nothing.

Names, settings and answers come from disk and from models: each is escaped where it becomes HTML, `<` is escaped in JSON,
scripts put text into the page as text, and the page's policy lets no script run but the two whose digests it names.
"""

import base64
import hashlib
import html
import importlib.resources
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from dpojax.report.page.content import Content, Section
from dpojax.report.page.styles import Name
from dpojax.report.page.table import Cell, Table
from dpojax.terminal import shown

POLICY = (
  "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; connect-src 'none'; base-uri 'none'; "
  "form-action 'none'"
)


# Shapes of Vega, as characters; of others the style sheet draws a sign.
SIGNS = {
  "circle": "●",
  "square": "■",
  "diamond": "◆",
  "triangle-up": "▲",
  "cross": "✚",
  "triangle-down": "▼",
  "ring": "○",
}
PHONE_NAME = 15  # characters of a row's name in one line on a phone
BREAKS = re.compile(r"([/:_]+)(?=\w)")  # where a name may go on in the next line


def page(content: Content, title: str, made: str, library: str) -> str:
  """The HTML.

  Args:
    title: of the page.
    made: a line that says of what and when it was made.
    library: the JavaScript of Vega, which defines `vegaEmbed`.
  """
  scripts = [_safe_script(f"(() => {{{library}\n}})();"), _safe_script(asset("page.js"))]
  digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
  charts = {
    chart.key: {"spec": chart.spec, "group": chart.group or chart.key}
    for section in content.sections
    for chart in section.charts
  }
  dark = {name.colour: name.dark for name in (*content.styles.methods.values(), *content.styles.settings.values())}
  carried = {"charts": charts, "dark": dark, "samples": content.samples}
  links = "".join(f'<a href="#{s.key}">{escape(s.title)}</a>' for s in content.sections)
  parts = [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY.format(scripts=digests))}">',
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
    f"<title>{escape(title)}</title><style>{asset('page.css')}</style></head><body>",
    f'<header><h1>{escape(title)}</h1><p class="note">{escape(made)}</p>{_summary(content)}'
    f'<nav aria-label="Sections">{links}</nav></header><main>',
    *(_section(section, content) for section in content.sections),
    _end(content),
    f'</main><script type="application/json" id="data">{embedded(carried)}</script>',
    *(f"<script>{script}</script>" for script in scripts),
    "</body></html>\n",
  ]
  return "\n".join(parts)


def escape(text: str) -> str:
  """Text as HTML shows it, inside an attribute too; what nobody would see in it is written out."""
  return html.escape(shown(text), quote=True)


def embedded(value: Any) -> str:
  """JSON that may stand in a script element: no `<` is in it, so that neither `</script` nor `<!--` can be."""
  return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def asset(name: str) -> str:
  """A file of this package."""
  return importlib.resources.files("dpojax.report.page").joinpath(name).read_text(encoding="utf-8")


def _safe_script(script: str) -> str:
  """A script of our own or of the library; ValueError where it would end its element."""
  if "</script" in script.lower() or "<!--" in script:
    raise ValueError("a script of the page holds </script or <!--, which would end it")
  return script


def _summary(content: Content) -> str:
  return f'<p class="summary">{escape(" ".join(content.summary))}</p>' if content.summary else ""


def _section(section: Section, content: Content) -> str:
  body = {"charts": _charts, "curves": _curves, "tables": _tables, "samples": _samples}[section.kind](section, content)
  return f'<section id="{section.key}"><h2>{escape(section.title)}</h2>{body}</section>'


def _charts(section: Section, content: Content) -> str:
  several = len(section.charts) > 1
  parts = []
  for chart in section.charts:
    heading = f"<h3>{escape(chart.title)}</h3>" if several or chart.title != section.title else ""
    note = f'<figcaption class="note">{escape(chart.note)}</figcaption>' if chart.note else ""
    place = f'<div class="chart" id="chart-{chart.key}" role="img" aria-label="{escape(chart.title)}"></div>'
    own = _legend(chart.key, chart.names) if chart.names and not chart.group else ""
    parts.append(f"<figure>{heading}{place}{own}{note}</figure>")
  grid = "grid" if section.kind == "curves" else "wide"
  return f'<div class="{grid}">{"".join(parts)}</div>'


def _curves(section: Section, content: Content) -> str:
  return _legend("runs", content.names) + _charts(section, content)


def _legend(group: str, names: Sequence[Name]) -> str:
  """A button for each name: it hides and shows what belongs to it in the charts of the group; a method's stand together."""
  parts = []
  for method, several in itertools.groupby(names, lambda name: name.method or name.name):
    members = list(several)
    if len(members) == 1:
      parts.append(_name_button(members[0], members[0].name))
    else:
      whole = f'<button type="button" class="whole" aria-pressed="true">{escape(method)}</button>'
      buttons = "".join(_name_button(name, name.short or name.name) for name in members)
      parts.append(f'<span class="method" role="group" aria-label="{escape(method)}">{whole}{buttons}</span>')
  every = '<button type="button" data-all="show">all</button><button type="button" data-all="hide">none</button>'
  hint = "Click: hide or show; double-click: this one alone"
  return (
    f'<div class="box"><div class="legend" data-group="{group}" role="group" aria-label="What the charts show" title="{hint}">'
    f"{every if len(names) > 2 else ''}{''.join(parts)}</div></div>"
  )


def _name_button(name: Name, text: str) -> str:
  label = f' aria-label="{escape(name.name)}"' if text != name.name else ""
  style = f"--light:{name.colour};--dark:{name.dark}"
  sign = f'<span class="sign {name.sign}" style="{style}" aria-hidden="true">{SIGNS.get(name.sign, "")}</span>'
  return f'<button type="button" class="name" aria-pressed="true" data-name="{html.escape(name.name)}"{label}>{sign} {escape(text)}</button>'


def _tables(section: Section, content: Content) -> str:
  return "".join(
    _table(table, heading=len(section.tables) > 1 or table.title != section.title) for table in section.tables
  )


def _table(table: Table, *, heading: bool) -> str:
  numbers = [any(row[i].value is not None for row in table.rows) for i in range(len(table.header))]
  head = "".join(
    f'<th scope="col" aria-sort="none"{_number(is_number)}><button type="button">{escape(name)}'
    '<span class="arrow" aria-hidden="true"></span></button></th>'
    for name, is_number in zip(table.header, numbers, strict=True)
  )
  shared = shared_beginning([row[0].text for row in table.rows])
  rows = "".join(f"<tr>{_cells(row, numbers, shared)}</tr>" for row in table.rows)
  longest = max((len(row[0].text) - len(shared) for row in table.rows), default=0)
  box = f"filter-{table.key}"
  return (
    f"{f'<h3>{escape(table.title)}</h3>' if heading else ''}"
    f'<div class="tools"><label for="{box}">Filter</label><input type="search" id="{box}" data-table="table-{table.key}" '
    f'autocomplete="off"><output for="{box}"></output><span class="further" aria-hidden="true"></span></div>'
    f'<div class="box"><div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
    f'<table id="table-{table.key}" style="--names:{min(longest, PHONE_NAME)}ch"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>'
    f'<p class="note">{escape(table.note)}</p>'
  )


def shared_beginning(names: Sequence[str]) -> str:
  """What all names begin with, up to a "/" or ":"; empty where there is one name, or nothing would be left of one.

  >>> shared_beginning(["seed_0/compared:dpo", "seed_0/compared:ppo"]), shared_beginning(["a/b", "ac"])
  ('seed_0/compared:', '')
  """
  if len(names) < 2:
    return ""
  same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
  begins = "".join(letter for letter, _ in same)
  begins = begins[: max(begins.rfind("/"), begins.rfind(":")) + 1]
  return "" if begins in names else begins


def _number(is_number: bool) -> str:
  return ' class="number"' if is_number else ""


def _cells(row: Sequence[Cell], numbers: Sequence[bool], shared: str) -> str:
  """The cells of a row; its name without what all names have in common, which is read where the pointer rests."""
  cells = []
  for i, cell in enumerate(row):
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    text, more = (
      (cell.text.removeprefix(shared), cell.more or cell.text * bool(shared)) if i == 0 else (cell.text, cell.more)
    )
    title = f' title="{escape(more)}"' if more else ""
    name, scope = ("th", ' scope="row"') if i == 0 else ("td", "")
    shown = BREAKS.sub(r"\1<wbr>", escape(text)) if i == 0 else escape(text)
    cells.append(f"<{name}{scope}{_number(numbers[i])}{value}{title}>{shown}</{name}>")
  return "".join(cells)


def _samples(section: Section, content: Content) -> str:
  sets = "".join(f'<option value="{i}">{escape(one["name"])}</option>' for i, one in enumerate(content.samples))
  note = f" {content.samples_note}." if content.samples_note else ""
  return (
    '<p class="note">Each policy answers the same prompt under the same random keys: the first sample of each. '
    f"{escape(note)}</p>"
    f'<div class="tools"><label for="sample-set">Prompts of</label><select id="sample-set">{sets}</select>'
    '<label for="sample-prompt">Prompt</label><select id="sample-prompt"></select>'
    '<button type="button" id="sample-back">previous</button><button type="button" id="sample-on">next</button></div>'
    '<blockquote id="sample-text"></blockquote><div class="answers" id="sample-answers" aria-live="polite"></div>'
  )


def _end(content: Content) -> str:
  missing = "".join(f"<li>{escape(title)}: {escape(how)}.</li>" for title, how in content.missing)
  problems = "".join(f"<li>{escape(problem)}</li>" for problem in content.problems)
  parts = []
  if missing:
    parts.append(f"<h2>Not on this page</h2><p>For want of data; what would give it:</p><ul>{missing}</ul>")
  if problems:
    parts.append(f"<h2>Not read</h2><ul>{problems}</ul>")
  parts.append('<p class="note">docs/report.md of dpojax says how each number is made.</p>')
  return f'<section id="end">{"".join(parts)}</section>'
