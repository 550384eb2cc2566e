"""Stanford Human Preferences: {"history", "human_ref_A", "human_ref_B", "labels"}; labels 1: A is preferred.

(Ethayarajh et al. 2022, arXiv:2110.08420)
"""

from dpojax.data.formats.cells import kind_of, shown, truth
from dpojax.data.formats.common import Format, PreferenceRow, Row, has, rest_of, single_turn, text
from dpojax.errors import DataError

COLUMNS = ("history", "human_ref_A", "human_ref_B", "labels")


def parse(row: Row, chat: bool) -> PreferenceRow:
  first, second = text(row, "human_ref_A"), text(row, "human_ref_B")
  label = row.get("labels")
  first_is_better = truth(label)
  if first_is_better is None:
    raise DataError(f"column 'labels' holds {kind_of(label) if label is None else shown(label)}, not 1 (A) or 0 (B)")
  answers = (first, second) if first_is_better else (second, first)
  return single_turn(text(row, "history"), answers, chat, rest_of(row, *COLUMNS))


FORMAT = Format(
  name="shp",
  wants="history, human_ref_A, human_ref_B (texts), labels (1: A is preferred, 0: B)",
  columns=COLUMNS,
  detects=lambda row: has(row, *COLUMNS),
  parse=parse,
)
