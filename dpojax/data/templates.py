"""Chat templates applied to the rows of a data set."""

import datetime
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.data.formats.cells import load_json, shown
from dpojax.data.formats.common import REASONING, Message, shared_length
from dpojax.errors import DataError, TemplateError
from dpojax.files import expanded
from dpojax.interop.template import TemplateRenderer
from dpojax.interop.tokenizer import Tokenizer

MOST_FAILURES = 20  # rows; a template that refuses more is the wrong one, and each may take its full time limit
# What a template that prints the date is told, whatever the day: token ids that change overnight would change the
# batches of a run that resumes. It is the date that Llama 3.1's template itself falls back to.
TODAY = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)
MOST_RENDERED = 32_000_000  # characters of a text
CALLED = ("name", "arguments")  # of a tool call: what a template must write
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
    return expanded(setting).read_text(encoding="utf-8-sig")
  except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
    raise DataError(f"data.template={setting}: {error}; give auto, none, or the path of a Jinja file") from error


def with_template(tokenizer: Tokenizer, setting: str) -> Tokenizer:
  """The tokenizer with the chat template that `data.template` means."""
  source = template_source(setting, tokenizer)
  return tokenizer if source == tokenizer.chat_template else tokenizer.with_template(source)


class ChatTemplate:
  """Renders conversations; counts those the template refuses.

  Attributes:
    ending: what the template writes after an answer, such as "<|im_end|>\\n".
    opening: characters that it writes after the last message for an answer to begin at.
  """

  def __init__(self, source: str, tokenizer: Tokenizer, most_characters: int = MOST_RENDERED):
    """Raises TemplateError if the template cannot render one question and its answer."""
    try:
      source.encode()
    except UnicodeEncodeError:
      raise TemplateError("chat template: it holds half a character (a lone surrogate)") from None
    self._renderer = TemplateRenderer(
      source, special_tokens=tokenizer.special_tokens, now=TODAY, most_characters=most_characters
    )
    self._rendered = self._failed = 0
    question, answer = {"role": "user", "content": "A question?"}, {"role": "assistant", "content": PROBE}
    try:
      text = self._renderer.render([question, answer], add_generation_prompt=False)
      if PROBE not in text:
        raise TemplateError("chat template: it leaves out what the assistant says")
    except BaseException:
      self.close()
      raise
    self.ending = text.rpartition(PROBE)[2]
    self.opening = self._opening(question)

  def _opening(self, question: Message) -> int:
    try:
      closed, opened = (self._renderer.render([question], add_generation_prompt=flag) for flag in (False, True))
    except TemplateError:  # nothing but whole dialogues; rows of prompts will say so
      return 0
    return len(opened) - shared_length(closed, opened)

  def render(
    self,
    conversations: Sequence[Sequence[Message]],
    places: Sequence[str],
    *,
    add_generation_prompt: bool,
    tools: Sequence[list[Any] | None] | None = None,
  ) -> list[str | TemplateError]:
    """The text of each conversation, with the functions that it may call, or the error with which the template refused it.

    Raises:
      TemplateError: it refused the first conversation of all, or too many; names the row.
    """
    texts: list[str | TemplateError] = []
    while len(texts) < len(conversations):
      todo, functions = conversations[len(texts) :], None if tools is None else tools[len(texts) :]
      try:
        done = self._renderer.render_batch(todo, add_generation_prompt=add_generation_prompt, tools=functions)
        self._rendered += len(done)
        texts.extend(done)
      except TemplateError as error:
        at = min(error.index, len(todo) - 1)
        self._failed += 1
        if (self._rendered == 0 and at == 0) or self._failed > MOST_FAILURES:
          raise TemplateError(f"{places[len(texts) + at]}: {error}") from error
        texts.extend(
          self._renderer.render_batch(todo[:at], add_generation_prompt=add_generation_prompt, tools=functions)
        )
        texts.append(error)
        self._rendered += at
    return texts

  def close(self) -> None:
    self._renderer.close()


def left_out(message: Message, rendered: str) -> str:
  """What of a message a rendered text does not hold, in words; "" where it holds all.

  White space does not count, since templates strip it; a text may stand as JSON or HTML write it.
  """
  for key in ("content", *REASONING):
    value = message.get(key)
    if isinstance(value, str) and not _holds(rendered, value):
      return f"its {'text' if key == 'content' else key} {shown(value)}"
  calls = message.get("tool_calls") or [message[key] for key in ("function_call",) if key in message]
  return next((f"its call {shown(text)}" for text in _texts_of(calls, CALLED) if not _holds(rendered, text)), "")


def changed(answer: str, written: str, ending: str, eos: str) -> str:
  """What a template writes for an answer, up to its EOS, where that is another text but for white space and escapes; else "".

  Args:
    answer: as given.
    written: what the template writes after the prompt.
    ending: what it writes after an answer.
    eos: the text of EOS.
  """
  at = ending.find(eos) if eos else -1
  ending = ending[at:] if at >= 0 else ending
  if not written.endswith(ending):
    return ""
  text = written.removesuffix(ending)
  return "" if _same(text, answer) else text


def _same(written: str, text: str) -> bool:
  """Whether both say the same, white space and escapes aside."""
  squeezed = "".join(written.split())
  forms = ("".join(form.split()) for form in _forms(text))
  return squeezed in forms or html.unescape(squeezed) == "".join(text.split())


def _forms(text: str) -> tuple[str, ...]:
  """A text as it may stand in a rendered one: itself, or as JSON writes it."""
  return text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]


def tools_left_out(tools: Sequence[Any], rendered: str) -> str:
  """The name of the first function that a rendered text does not hold, in words; "" where it holds all."""
  names = (name for tool in tools for name in _texts_of(tool, ("name",))[:1])
  return next((f"the tool {shown(name)}" for name in names if not _holds(rendered, name)), "")


def _holds(rendered: str, text: str) -> bool:
  if text in rendered:
    return True
  squeezed = "".join(rendered.split())
  return any("".join(form.split()) in squeezed for form in _forms(text)) or "".join(text.split()) in html.unescape(
    squeezed
  )


def _texts_of(value: Any, names: Sequence[str]) -> list[str]:
  """Texts inside a value that stand under these names, or under any name inside `arguments`."""
  found: list[str] = []
  todo: list[tuple[Any, bool]] = [(value, False)]
  while todo:
    one, wanted = todo.pop()
    if isinstance(one, str):
      if wanted:
        found.append(one)
    elif isinstance(one, Mapping):
      for name, inner in reversed([*one.items()]):
        if name == "arguments" and isinstance(inner, str):  # JSON in a text
          inner = _arguments(inner)
        todo.append((inner, wanted or name in names))
    elif isinstance(one, list | tuple):
      todo += [(inner, wanted) for inner in reversed(one)]
  return found


def _arguments(text: str) -> Any:
  try:
    return load_json(text)
  except ValueError:
    return text
