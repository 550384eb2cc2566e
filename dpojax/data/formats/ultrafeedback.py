"""UltraFeedback, binarized: {"prompt": text, "chosen": messages, "rejected": messages}, scores beside them.

Both conversations repeat the prompt as their first message. (Cui et al. 2023, arXiv:2310.01377; the
layout of HuggingFaceH4/ultrafeedback_binarized)
"""

from dpojax.data.formats.common import Comparison, Format, Row, answer_after, has, is_messages, messages, rest_of, text
from dpojax.data.formats.conversational import shared_messages


def parse(row: Row, chat: bool) -> Comparison:
  chosen, rejected = messages(row, "chosen"), messages(row, "rejected")
  prompt = shared_messages(chosen, rejected) or [{"role": "user", "content": text(row, "prompt")}]
  answers = (answer_after(prompt, chosen, "chosen"), answer_after(prompt, rejected, "rejected"))
  return Comparison("chat", prompt, answers, rest_of(row, "prompt", "chosen", "rejected", "messages"))


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
