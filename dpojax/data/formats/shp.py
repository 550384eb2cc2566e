"""Stanford Human Preferences: {"history", "human_ref_A", "human_ref_B", "labels"}; labels 1: A is preferred.

(Ethayarajh et al. 2022, arXiv:2110.08420)
"""

from dpojax.data.formats.common import Comparison, Format, Row, has, kind_of, rest_of, single_turn, text
from dpojax.errors import DataError

COLUMNS = ("history", "human_ref_A", "human_ref_B", "labels")


def parse(row: Row, chat: bool) -> Comparison:
  first, second = text(row, "human_ref_A"), text(row, "human_ref_B")
  label = row.get("labels")
  if str(label) not in ("0", "1"):
    raise DataError(f"column 'labels' holds {label if label is not None else kind_of(label)}, not 1 (A) or 0 (B)")
  answers = (first, second) if str(label) == "1" else (second, first)
  return single_turn(text(row, "history"), answers, chat, rest_of(row, *COLUMNS))


FORMAT = Format(
  name="shp",
  wants="history, human_ref_A, human_ref_B (texts), labels (1: A is preferred, 0: B)",
  columns=COLUMNS,
  detects=lambda row: has(row, *COLUMNS),
  parse=parse,
)
