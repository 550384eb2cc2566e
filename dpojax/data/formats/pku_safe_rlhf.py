"""PKU-SafeRLHF: {"prompt", "response_0", "response_1", "better_response_id", "safer_response_id"}.

The pair is ordered by `better_response_id` (helpfulness); the safety labels stay in the details.
(Ji et al. 2023, arXiv:2307.04657)
"""

from dpojax.data.formats.cells import kind_of, shown, truth
from dpojax.data.formats.common import Format, PreferenceRow, Row, has, rest_of, single_turn, text
from dpojax.errors import DataError

COLUMNS = ("prompt", "response_0", "response_1", "better_response_id")


def parse(row: Row, chat: bool) -> PreferenceRow:
  answers = (text(row, "response_0"), text(row, "response_1"))
  better = row.get("better_response_id")
  second_is_better = truth(better)
  if second_is_better is None:
    value = kind_of(better) if better is None else shown(better)
    raise DataError(f"column 'better_response_id' holds {value}, not 0 or 1")
  ordered = answers[::-1] if second_is_better else answers
  return single_turn(text(row, "prompt"), ordered, chat, rest_of(row, *COLUMNS))


FORMAT = Format(
  name="pku_safe_rlhf",
  wants="prompt, response_0, response_1 (texts), better_response_id (0 or 1)",
  columns=COLUMNS,
  detects=lambda row: has(row, *COLUMNS),
  parse=parse,
)
