"""Explicit prompt: {"prompt": text, "chosen": text, "rejected": text}.

With a chat template the prompt is the user's message and the answers the assistant's; without one,
prompt and answer are joined exactly as they stand, so the space between them must be written in one.
"""

from dpojax.data.formats.common import Comparison, Format, Row, has, rest_of, text


def parse(row: Row, chat: bool) -> Comparison:
  prompt = text(row, "prompt")
  answers = (text(row, "chosen"), text(row, "rejected"))
  details = rest_of(row, "prompt", "chosen", "rejected")
  if chat:
    return Comparison("chat", [{"role": "user", "content": prompt}], answers, details)
  return Comparison("text", prompt, answers, details)


FORMAT = Format(
  name="explicit",
  wants="prompt, chosen, rejected (texts)",
  columns=("prompt", "chosen", "rejected"),
  detects=lambda row: has(row, "prompt", "chosen", "rejected"),
  parse=parse,
)
