"""HH pairs as messages, for the scripts that make golden files: read here without any code of dpojax."""

import gzip
import json
import re
from pathlib import Path

ROLE = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"\n\n(Human|Assistant):")


def as_messages(text: str) -> list[dict[str, str]]:
  """'\\n\\nHuman: a\\n\\nAssistant: b' -> [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]"""
  before, *parts = TURN.split(text)
  assert not before.strip(), f"text before the first turn: {before[:40]!r}"
  return [{"role": ROLE[role], "content": said.strip()} for role, said in zip(parts[::2], parts[1::2], strict=True)]


def read_pairs(path: Path, limit: int | None = None) -> list[dict]:
  """The first `limit` suitable rows: row number, prompt messages, chosen and rejected (one message each).

  Suitable: both conversations are equal but for the last turn, turns alternate from user to assistant,
  none is empty, and the two answers differ.
  """
  pairs = []
  with gzip.open(path, "rt", encoding="utf-8") as lines:
    for row, line in enumerate(lines):
      texts = json.loads(line)
      (*prompt, chosen), (*other, rejected) = as_messages(texts["chosen"]), as_messages(texts["rejected"])
      turns = [*prompt, chosen]
      alternates = all(turn["role"] == ("user", "assistant")[i % 2] for i, turn in enumerate(turns))
      filled = all(turn["content"] for turn in [*turns, rejected])
      if prompt == other and alternates and len(turns) % 2 == 0 and filled and chosen != rejected:
        pairs.append(dict(row=row, prompt=prompt, chosen=[chosen], rejected=[rejected]))
      if limit and len(pairs) == limit:
        break
  return pairs
