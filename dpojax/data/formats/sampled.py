"""Sampled answers, as `dpojax sample --out` writes them: {"prompt": text or messages, "samples": [{"text", "ended"}, ...]}.

The samples of a row are of equal standing. One that "ended" by "length" did not end by itself and gets no EOS. A row
{"row", "error"} says why a prompt has no answers; it is malformed by that reason.
"""

from collections.abc import Mapping

from dpojax.data.formats.cells import from_json, kind_of, shown
from dpojax.data.formats.common import (
  Format,
  PreferenceRow,
  Row,
  has,
  read_prompt,
  rest_of,
)
from dpojax.errors import DataError
from dpojax.types import Answers

ENDED = ("eos", "stop", "length")


def parse(row: Row, chat: bool) -> PreferenceRow:
  if _unanswered(row):
    raise DataError(f"it has no answers: {row['error'] if isinstance(row['error'], str) else shown(row['error'])}")
  samples = from_json(row.get("samples"))
  if not isinstance(samples, list) or not samples:
    raise DataError(f"column 'samples' holds {kind_of(samples)}, not a list of objects with 'text' and 'ended'")
  for i, sample in enumerate(samples):
    if not isinstance(sample, Mapping) or not isinstance(sample.get("text"), str) or sample.get("ended") not in ENDED:
      raise DataError(f"entry {i} of column 'samples' is no object with a 'text' and 'ended': {', '.join(ENDED)}")
  answers = tuple(sample["text"] for sample in samples)
  finished = tuple(sample["ended"] != "length" for sample in samples)
  details = rest_of(row, "prompt", "samples")
  kind, prompt = read_prompt(row, chat)
  return PreferenceRow(kind, prompt, answers, details, finished=finished)


def detects(row: Row) -> bool:
  return has(row, "prompt", "samples") or _unanswered(row)


def _unanswered(row: Row) -> bool:
  return set(row) == {"row", "error"}


FORMAT = Format(
  name="sampled",
  wants="prompt (text or messages), samples (a list of objects with text and ended), as `dpojax sample --out` writes them",
  columns=(),
  reads=("prompt", "samples", "row", "error"),
  detects=detects,
  parse=parse,
  answers=Answers.ANY,
)
