"""Prompts that a stage of recipe=pairs answers: those of a built-in world, or the user's."""

import dataclasses

from dpojax.config.schema import RunConfig
from dpojax.data.examples import check_ids
from dpojax.data.prompts import PromptRows, prompts_given, read_prompts
from dpojax.data.worlds import get_world
from dpojax.errors import ConfigError, DataError
from dpojax.training.model_files import LoadedModel


def prompts_to_answer(config: RunConfig, policy: LoadedModel) -> PromptRows:
  """The first `pairs.prompts` usable prompts of the data, or as many of the world's, drawn by `pairs.seed`.

  Raises:
    InputError: a file, row or column is wrong, no prompt can be used, or the model has no positions left for one.
  """
  settings, model, tokenizer = config.pairs, policy.model.config, policy.tokenizer
  data = dataclasses.replace(config.data, template="auto")  # the policy's tokenizer carries it
  if data.source == "world":
    texts = get_world(data.name).prompts(settings.prompts, settings.seed)
    found = prompts_given(texts, data, tokenizer)
    # As the world has them, which is what its reward reads, not as the one message that a template makes of them.
    return PromptRows(dataclasses.replace(row, given=text) for row, text in zip(found, texts, strict=True))
  longest = model.max_positions - settings.max_tokens if model.max_positions else 0
  if longest < 0 or model.max_positions == settings.max_tokens:
    raise ConfigError(
      f"pairs.max_tokens={settings.max_tokens} leaves no room for a prompt in the model's {model.max_positions} positions"
    )
  found = read_prompts(data, tokenizer, longest=longest)
  rows = PromptRows(found[: settings.prompts or None])
  rows.counts, rows.dropped, rows.notes = found.counts, found.dropped, found.notes
  for row in rows:
    check_ids(row.ids, model.vocab_size, row.where, tokenizer)
    if tokenizer.chat_template is not None and isinstance(row.given, str):
      raise DataError(
        f"{row.where}: its prompt is given as token ids, and pairs are written as text, which the chat template would "
        "wrap once more; give prompts as text or messages"
      )
  return rows
