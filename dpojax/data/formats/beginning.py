"""Plain text whose first words are the prompt and whose rest is the answer: {"text": text}. Chosen by name, never by `auto`.

::

  "Effective but too tepid biopic"  ->  prompt "Effective but", answer " too tepid biopic"

How many words, 2 to 8 and at most half of them, a digest of the text decides: the same text is divided alike in every stage. So
are prompts made in the DPO paper (arXiv 2305.18290, section 6), of 2 to 8 tokens. Never put through a chat template.
"""

import hashlib
import re

from dpojax.data.formats.common import Format, PreferenceRow, Row, rest_of, text
from dpojax.errors import DataError
from dpojax.types import Answers

LEAST, MOST = 2, 8  # words of a prompt


def parse(row: Row, chat: bool) -> PreferenceRow:
  whole = text(row, "text").strip()
  ends = [word.end() for word in re.finditer(r"\S+", whole)]
  if len(ends) < 2 * LEAST:
    raise DataError(f"column 'text' has {len(ends)} words; a beginning of {LEAST} and as many after it are the least")
  most = min(MOST, len(ends) // 2)
  words = LEAST + int.from_bytes(hashlib.sha256(whole.encode()).digest()[:8], "big") % (most - LEAST + 1)
  end = ends[words - 1]
  return PreferenceRow("text", whole[:end], (whole[end:],), rest_of(row, "text"))


FORMAT = Format(
  name="beginning",
  wants="text",
  columns=("text",),
  detects=lambda row: False,
  parse=parse,
  answers=Answers.ONE,
)
