"""RewardBench, version 1: {"prompt": text, "chosen": text, "rejected": text, "subset", "chosen_model", ...}.

Its prior sets (preference-test-sets) have a list of messages as the prompt, and texts as answers.
(Lambert et al. 2024, arXiv:2403.13787)
"""

from dpojax.data.formats.common import (
  Format,
  PreferenceRow,
  Row,
  has,
  is_messages,
  messages,
  rest_of,
  single_turn,
  text,
)


def parse(row: Row, chat: bool) -> PreferenceRow:
  answers = (text(row, "chosen"), text(row, "rejected"))
  details = rest_of(row, "prompt", "chosen", "rejected")
  if is_messages(row.get("prompt")):
    return PreferenceRow("chat", messages(row, "prompt"), answers, details)
  return single_turn(text(row, "prompt"), answers, chat, details)


def detects(row: Row) -> bool:
  if not has(row, "prompt", "chosen", "rejected") or not isinstance(row["chosen"], str) or is_messages(row["chosen"]):
    return False
  return is_messages(row["prompt"]) or has(row, "subset", "chosen_model", "rejected_model")


FORMAT = Format(
  name="rewardbench",
  wants="prompt (text or messages), chosen, rejected (texts), with subset, chosen_model and rejected_model beside them",
  columns=("prompt", "chosen", "rejected"),
  detects=detects,
  parse=parse,
)
