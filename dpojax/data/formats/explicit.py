"""Explicit prompt: {"prompt": text, "chosen": text, "rejected": text}.

With a chat template the prompt is the user's message and the answers the assistant's, and a prompt of HH's turns that ends in
"\\n\\nAssistant:" becomes messages; without one,
prompt and answer are joined exactly as they stand, so the space between them must be written in one.
"""

from dpojax.data.formats.common import Format, PreferenceRow, Row, has, read_prompt, rest_of, text
from dpojax.data.formats.hh import is_dialogue, turns_and_answers


def parse(row: Row, chat: bool) -> PreferenceRow:
  kind, prompt = read_prompt(row, chat)
  answers = (text(row, "chosen"), text(row, "rejected"))
  if (
    chat and isinstance(row["prompt"], str) and is_dialogue(row["prompt"])
  ):  # HH with its prompt in a column of its own
    prompt, answers = turns_and_answers(row["prompt"], answers)
  details = rest_of(row, "prompt", "chosen", "rejected")
  return PreferenceRow(kind, prompt, answers, details)


FORMAT = Format(
  name="explicit",
  wants="prompt, chosen, rejected (texts)",
  columns=("prompt", "chosen", "rejected"),
  detects=lambda row: has(row, "prompt", "chosen", "rejected"),
  parse=parse,
)
