"""Row formats, one file each. A new one: write `formats/NAME.py` with a `FORMAT`, and list it here."""

from dpojax.config.keys import not_a_choice, suggestion
from dpojax.data.formats import (
  beginning,
  chat,
  completion,
  conversational,
  explicit,
  hh,
  implicit,
  nectar,
  pku_safe_rlhf,
  pretokenised,
  ranked,
  rewardbench,
  rewardbench_v2,
  sampled,
  shp,
  text,
  ultrafeedback,
  unpaired,
)
from dpojax.data.formats.common import Format, PreferenceRow, Row
from dpojax.errors import DataError

__all__ = ["FORMATS", "Format", "PreferenceRow", "Row", "choose_format"]

# In the order in which `auto` asks them: the more particular before the more general.
_IN_ORDER = [
  pretokenised,
  shp,
  pku_safe_rlhf,
  ultrafeedback,
  conversational,
  hh,
  rewardbench_v2,
  rewardbench,
  explicit,
  implicit,
  nectar,
  ranked,
  sampled,
  unpaired,
  completion,
  chat,
  text,
  beginning,
]
FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in _IN_ORDER}


def format_named(name: str) -> Format:
  """Raises ConfigError where `data.format` names none."""
  if name not in FORMATS:
    raise not_a_choice("data.format", name, ("auto", *FORMATS), suggestion(name, FORMATS))
  return FORMATS[name]


def choose_format(name: str, row: Row, where: str) -> Format:
  """The format of that name, or with `auto` the first that the row looks like.

  Args:
    name: `data.format`.
    row: the first row.
    where: its place, for messages.

  Raises:
    ConfigError: no such format.
    DataError: the row lacks a column that the format needs, or looks like no format.
  """
  found = ", ".join(row) or "none"
  if name == "auto":
    for form in FORMATS.values():
      if form.detects(row):
        return form
    nearest = sorted(FORMATS.values(), key=lambda form: _distance(form, row))
    known = "\n".join(f"  {form.name}: {form.wants}" for form in nearest)
    alone = "; prompts alone are for recipes that write answers (pairs, online, policy_gradient, best_of_n)"
    hint = alone if {*row} == {"prompt"} else ""
    raise DataError(f"{where}: columns {found} fit no known format{hint}; rename them to one of\n{known}")
  form = format_named(name)
  missing = [column for column in form.columns if column not in row]
  if missing:
    raise DataError(f"{where}: no column {missing[0]!r}; format {name!r} wants {form.wants}, found {found}")
  return form


def _distance(form: Format, row: Row) -> tuple[bool, int, int]:
  """How far a row is from a format: formats with no column of it last, then by columns it lacks, then by those it has."""
  there = len({*form.columns} & {*row})
  return not there, len(form.columns) - there, -there
