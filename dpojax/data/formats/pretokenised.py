"""Token ids: {"prompt_ids", "chosen_ids", "rejected_ids"}, or {"prompt_ids", "answers_ids": [ids, ...]}.

`completion_ids` stands for a single answer. Ids are used exactly as given: no BOS or EOS is added.
"""

from dpojax.data.formats.cells import from_json, kind_of
from dpojax.data.formats.common import Format, PreferenceRow, Row, check_ids, rest_of, token_ids
from dpojax.errors import DataError

ANSWERS = ("chosen_ids", "rejected_ids", "answers_ids", "completion_ids")


def parse(row: Row, chat: bool) -> PreferenceRow:
  prompt = token_ids(row, "prompt_ids")
  if "answers_ids" in row:
    lists = from_json(row["answers_ids"])
    if not isinstance(lists, list) or not lists:
      raise DataError(f"column 'answers_ids' holds {kind_of(lists)}, not a list of lists of token ids")
    answers = tuple(check_ids(ids, f"entry {i} of column 'answers_ids'") for i, ids in enumerate(lists))
  elif "completion_ids" in row:
    answers = (token_ids(row, "completion_ids"),)
  else:
    answers = (token_ids(row, "chosen_ids"), token_ids(row, "rejected_ids"))
  return PreferenceRow("ids", prompt, answers, rest_of(row, "prompt_ids", *ANSWERS))


FORMAT = Format(
  name="pretokenised",
  wants="prompt_ids with chosen_ids and rejected_ids, or answers_ids, or completion_ids (lists of token ids)",
  columns=("prompt_ids",),
  reads=ANSWERS,
  detects=lambda row: "prompt_ids" in row,
  parse=parse,
)
