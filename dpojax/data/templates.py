"""Chat templates applied to the rows of a data set."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from dpojax.data.formats.common import Message
from dpojax.errors import DataError, TemplateError
from dpojax.interop.template import TemplateRenderer
from dpojax.interop.tokenizer import Tokenizer

MOST_FAILURES = 20  # rows; a template that refuses more is the wrong one, and each may take its full time limit
# What a template that prints the date is told, whatever the day: token ids that change overnight would change the
# batches of a run that resumes. It is the date that Llama 3.1's template itself falls back to.
TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)
PROBE = "An answer that no template contains."


def template_source(setting: str, tokenizer: Tokenizer) -> str | None:
  """The Jinja source that `data.template` means; None: texts are used as they stand.

  Raises:
    DataError: the file cannot be read.
  """
  if setting == "auto":
    return tokenizer.chat_template
  if setting == "none":
    return None
  try:
    return Path(setting).expanduser().read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"data.template={setting}: {error}; give auto, none, or the path of a Jinja file") from error


def with_template(tokenizer: Tokenizer, setting: str) -> Tokenizer:
  """The tokenizer with the chat template that `data.template` means."""
  source = template_source(setting, tokenizer)
  return tokenizer if source == tokenizer.chat_template else tokenizer.with_template(source)


class ChatTemplate:
  """Renders conversations; counts those the template refuses.

  Attributes:
    ending: what the template writes after an answer, such as "<|im_end|>\\n".
  """

  def __init__(self, source: str, tokenizer: Tokenizer):
    """Raises TemplateError if the template cannot render one question and its answer."""
    self._renderer = TemplateRenderer(source, special_tokens=tokenizer.special_tokens, now=TODAY)
    self._rendered = self._failed = 0
    probe = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": PROBE}]
    try:
      text = self._renderer.render(probe, add_generation_prompt=False)
      if PROBE not in text:
        raise TemplateError("chat template: it leaves out what the assistant says")
    except BaseException:
      self.close()
      raise
    self.ending = text.rpartition(PROBE)[2]

  def render(
    self, conversations: Sequence[list[Message]], places: Sequence[str], *, add_generation_prompt: bool
  ) -> list[str | TemplateError]:
    """The text of each conversation, or the error with which the template refused it.

    Raises:
      TemplateError: it refused the first conversation of all, or too many; names the row.
    """
    texts: list[str | TemplateError] = []
    while len(texts) < len(conversations):
      todo = conversations[len(texts) :]
      try:
        done = self._renderer.render_batch(todo, add_generation_prompt=add_generation_prompt)
        self._rendered += len(done)
        texts.extend(done)
      except TemplateError as error:
        at = min(error.index, len(todo) - 1)
        self._failed += 1
        if (self._rendered == 0 and at == 0) or self._failed > MOST_FAILURES:
          raise TemplateError(f"{places[len(texts) + at]}: {error}") from error
        texts.extend(self._renderer.render_batch(todo[:at], add_generation_prompt=add_generation_prompt))
        texts.append(error)
        self._rendered += at
    return texts

  def close(self) -> None:
    self._renderer.close()
