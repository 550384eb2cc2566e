"""Unpaired answers: {"prompt": text or messages, "completion": text or messages, "label": true or false}.

One answer a row; its label is kept in the details. For `sft`, rows with label false are left out.
(Ethayarajh et al. 2024, KTO, arXiv:2402.01306)
"""

from dpojax.data.formats.common import Comparison, Format, Row, has, kind_of
from dpojax.data.formats.completion import parse as parse_completion
from dpojax.errors import DataError
from dpojax.types import Answers

LABELS = {"true": True, "1": True, "false": False, "0": False}


def parse(row: Row, chat: bool) -> Comparison:
  label = LABELS.get(str(row.get("label")).lower())
  if label is None:
    value = row.get("label")
    shown = kind_of(value) if value is None else repr(value)
    raise DataError(f"column 'label' holds {shown}, not true or false")
  read = parse_completion({name: value for name, value in row.items() if name != "label"}, chat)
  return Comparison(read.kind, read.prompt, read.answers, {**read.details, "label": label})


FORMAT = Format(
  name="unpaired",
  wants="prompt, completion (texts or messages), label (true or false)",
  columns=("prompt", "completion", "label"),
  detects=lambda row: has(row, "prompt", "completion", "label"),
  parse=parse,
  answers=Answers.UNPAIRED,
)
