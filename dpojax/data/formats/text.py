"""Plain text to learn as a whole: {"text": text}. Never put through a chat template."""

from dpojax.data.formats.common import Format, PreferenceRow, Row, has, rest_of, text
from dpojax.types import Answers


def parse(row: Row, chat: bool) -> PreferenceRow:
  return PreferenceRow("text", "", (text(row, "text"),), rest_of(row, "text"))


FORMAT = Format(
  name="text",
  wants="text",
  columns=("text",),
  detects=lambda row: has(row, "text"),
  parse=parse,
  answers=Answers.ONE,
)
