"""UltraFeedback, binarized: {"prompt": text, "chosen": messages, "rejected": messages}, scores beside them.

Both conversations repeat the prompt as their first message. (Cui et al. 2023, arXiv:2310.01377; the
layout of HuggingFaceH4/ultrafeedback_binarized)
"""

from dpojax.data.formats.cells import shown
from dpojax.data.formats.common import (
  Format,
  Message,
  PreferenceRow,
  Row,
  answer_after,
  has,
  is_messages,
  messages,
  rest_of,
  text,
)
from dpojax.data.formats.conversational import shared_messages
from dpojax.errors import DataError


def parse(row: Row, chat: bool) -> PreferenceRow:
  chosen, rejected = messages(row, "chosen"), messages(row, "rejected")
  given, prompt = text(row, "prompt"), shared_messages(chosen, rejected)
  if not _is_of(given, prompt):
    raise DataError(
      f"column 'prompt' holds {shown(given)}, which is no message of 'chosen' and 'rejected'; leave it out by "
      "data.columns=-prompt if they hold the prompt"
    )
  prompt = prompt or [{"role": "user", "content": given}]
  answers = (answer_after(prompt, chosen, "chosen"), answer_after(prompt, rejected, "rejected"))
  return PreferenceRow("chat", prompt, answers, rest_of(row, "prompt", "chosen", "rejected", "messages"))


def _is_of(given: str, prompt: list[Message]) -> bool:
  """Whether a prompt as text is one of these messages, a part of one, or a text that holds the last of them."""
  squeezed = ["".join(text.split()) for text in (given, *(message["content"] for message in prompt))]
  return not prompt or any(squeezed[0] in text for text in squeezed[1:]) or squeezed[-1] in squeezed[0]


def detects(row: Row) -> bool:
  return has(row, "prompt", "chosen", "rejected") and isinstance(row["prompt"], str) and is_messages(row["chosen"])


FORMAT = Format(
  name="ultrafeedback",
  wants="prompt (text), chosen, rejected (lists of messages that begin with the prompt)",
  columns=("prompt", "chosen", "rejected"),
  reads=("messages",),
  detects=detects,
  parse=parse,
)
