"""Unpaired answers: {"prompt": text or messages, "completion": text or messages, "label": true or false}.

One answer a row; its label is kept in the details. For `sft`, rows with label false are left out.
(Ethayarajh et al. 2024, KTO, arXiv:2402.01306)
"""

import dataclasses

from dpojax.data.formats.cells import kind_of, shown, truth
from dpojax.data.formats.common import Format, PreferenceRow, Row, has
from dpojax.data.formats.completion import parse as parse_completion
from dpojax.errors import DataError
from dpojax.types import Answers


def parse(row: Row, chat: bool) -> PreferenceRow:
  label = truth(row.get("label"))
  if label is None:
    value = row.get("label")
    found = kind_of(value) if value is None else shown(value)
    raise DataError(f"column 'label' holds {found}, not true or false")
  read = parse_completion({name: value for name, value in row.items() if name != "label"}, chat)
  return dataclasses.replace(read, details={**read.details, "label": label})


FORMAT = Format(
  name="unpaired",
  wants="prompt, completion (texts or messages), label (true or false)",
  columns=("prompt", "completion", "label"),
  detects=lambda row: has(row, "prompt", "completion", "label"),
  parse=parse,
  answers=Answers.UNPAIRED,
)
