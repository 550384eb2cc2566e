"""Prompts that a stage answers: those of a built-in environment, or the user's; and those it keeps apart to look at."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dpojax.config.experiment import names_in
from dpojax.config.keys import SECTIONS
from dpojax.config.schema import DataSettings, RunConfig
from dpojax.data.examples import check_ids
from dpojax.data.prompts import (
  PromptRow,
  PromptRows,
  first_held_out,
  hold_out_prompts,
  prompts_given,
  read_prompts,
)
from dpojax.environments import get_environment
from dpojax.errors import ConfigError, DataError
from dpojax.training.model_files import LoadedModel

ENVIRONMENT_PROMPTS = 10_000  # of an environment, which has no end of them, where no number is given
BEST_OF_PROMPTS = 256  # for best-of-N, where every prompt has dozens of answers


def rollout_prompts(
  config: RunConfig, policy: LoadedModel, given: Sequence[Mapping[str, Any]] | None = None
) -> tuple[PromptRows, list[PromptRow]]:
  """(prompts that roll-outs answer, others that the policy is looked at with; an environment gives the latter itself).

  Args:
    config: as it was given: `rollout.seed` and `seed` are added here.
    policy: what answers them.
    given: rows in memory, in the place of those of `data.path`.

  Raises:
    InputError: as `prompts_to_answer`.
  """
  rollout, data = config.rollout, config.data
  room = _room(config) if "batch" in SECTIONS[config.recipe] else 0
  if data.source == "world":
    count = rollout.prompts or ENVIRONMENT_PROMPTS
    seed = rollout.seed + config.seed
    return _answered(config, policy, count, seed, rollout.max_tokens, "rollout", room), []
  rows = _answered(config, policy, 0, 0, rollout.max_tokens, "rollout", room, given=given)
  if data.eval_path or data.eval_split:
    held = dataclasses.replace(data, path=data.eval_path, split=data.eval_split or data.split, template="auto")
    held_out = list(read_prompts(held, policy.tokenizer))
    seen = {row.ids.tobytes() for row in held_out}
    kept = [row for row in rows if row.ids.tobytes() not in seen]
  else:
    kept, held_out = hold_out_prompts(rows, data.eval_fraction, data.seed)
  if not kept:
    raise DataError(f"no prompt is left to train on: {len(held_out):,} are held out of {len(rows):,}")
  chosen = PromptRows(kept[: rollout.prompts or None])
  chosen.counts, chosen.dropped, chosen.notes = rows.counts, rows.dropped, rows.notes
  chosen.warnings = rows.warnings
  return chosen, held_out


def _room(config: RunConfig) -> int:
  """Tokens that a row leaves for a prompt: beside one answer, or beside both of a pair."""
  length, answer = config.batch.row_length, config.rollout.max_tokens
  if config.recipe != "online":
    return length - answer
  return length - 2 * answer if config.batch.share_prompt else length // 2 - answer


def prompts_to_answer(config: RunConfig, policy: LoadedModel) -> PromptRows:
  """The first `pairs.prompts` usable prompts of the data, or as many of the environment's, drawn by `pairs.seed`.

  Raises:
    InputError: a file, row or column is wrong, no prompt can be used, or the model has no positions left for one.
  """
  settings = config.pairs
  return _answered(config, policy, settings.prompts, settings.seed, settings.max_tokens, "pairs")


def best_of_prompts(config: RunConfig, policy: LoadedModel) -> PromptRows:
  """The first `rollout.prompts` usable prompts of the data, or as many of an environment's `best_of_n.split`; errors as above."""
  rollout = config.rollout
  count, seed = rollout.prompts or BEST_OF_PROMPTS, rollout.seed + config.seed
  return _answered(config, policy, count, seed, rollout.max_tokens, "rollout", split=config.best_of_n.split)


def comparison_prompts(config: RunConfig, policy: LoadedModel) -> dict[str, PromptRows]:
  """`rollout.prompts` (0: 256) of each of `comparison.splits`: of an environment's, or of data those held out ("held_out") or all ("all");
  errors as above.
  """
  rollout, data = config.rollout, config.data
  count, seed = rollout.prompts or BEST_OF_PROMPTS, rollout.seed + config.seed
  splits = names_in(config.comparison.splits)
  if data.source == "world":
    return {
      split: _answered(config, policy, count, seed, rollout.max_tokens, "rollout", split=split) for split in splits
    }
  found = {}
  for split in splits:
    rows = _answered(
      config, policy, count * (split == "all"), 0, rollout.max_tokens, "rollout", held_out=split == "held_out"
    )
    if split == "held_out" and not (data.eval_path or data.eval_split):
      kept = first_held_out(hold_out_prompts(rows, data.eval_fraction, data.seed)[1], count, data.seed)
      if not kept:
        raise ConfigError(
          "comparison.splits=held_out, but data.eval_fraction=0 holds no prompt out; set comparison.splits=all"
        )
      rows = _of(rows, kept)
    found[split] = _of(rows, rows[:count])
  return found


def _of(rows: PromptRows, kept: Sequence[PromptRow]) -> PromptRows:
  """Some of the rows, with what is known of all."""
  made = PromptRows(kept)
  made.counts, made.dropped, made.notes = rows.counts, rows.dropped, rows.notes
  made.warnings = rows.warnings
  return made


def _answered(
  config: RunConfig,
  policy: LoadedModel,
  count: int,
  seed: int,
  max_tokens: int,
  section: str,
  room: int = 0,
  split: str = "train",
  held_out: bool = False,
  given: Sequence[Mapping[str, Any]] | None = None,
) -> PromptRows:
  """The first `count` usable prompts (0: all), of an environment's `split`; `room` is what a row leaves for one (0: any).

  With `held_out`, those of `data.eval_path` or `data.eval_split` where one is given.
  """
  model, tokenizer = policy.model.config, policy.tokenizer
  data: DataSettings = dataclasses.replace(config.data, template="auto")  # the policy's tokenizer carries it
  if held_out and (data.eval_path or data.eval_split):
    data = dataclasses.replace(data, path=data.eval_path, split=data.eval_split or data.split)
  if model.max_positions and model.max_positions <= max_tokens:
    raise ConfigError(
      f"{section}.max_tokens={max_tokens} leaves no room for a prompt in the model's {model.max_positions} positions"
    )
  if room < 0 or ("batch" in SECTIONS[config.recipe] and room == 0):
    raise ConfigError(
      f"{section}.max_tokens={max_tokens} leaves no room for a prompt{' and two answers' * (config.recipe == 'online')} in "
      f"rows of batch.row_length={config.batch.row_length}"
    )
  if data.source == "world":
    texts = get_environment(data.name).prompts(count, seed, split)
    found = prompts_given(texts, data, tokenizer)
    most = max(len(row.ids) for row in found)
    if model.max_positions and most + max_tokens > model.max_positions:
      raise ConfigError(
        f"{section}.max_tokens={max_tokens} after the longest prompt of data.name={data.name} ({most} tokens) passes the "
        f"{model.max_positions} positions of the model; lower it, or give another model.path"
      )
    # As the environment has them, which is what its reward reads, not as the one message that a template makes of them.
    rows = PromptRows(dataclasses.replace(row, given=text) for row, text in zip(found, texts, strict=True))
    rows.counts = found.counts
    return rows
  limits = {f"what {section}.max_tokens={max_tokens} leaves of batch.row_length={config.batch.row_length}": room}
  if model.max_positions:
    left = model.max_positions - max_tokens
    limits[f"what {section}.max_tokens={max_tokens} leaves of the model's {model.max_positions} positions"] = left
  longest, left_by = min(((size, words) for words, size in limits.items() if size), default=(0, ""))
  found = read_prompts(data, tokenizer, longest=longest, left_by=left_by, given=given)
  rows = PromptRows(found[: count or None])
  rows.counts, rows.dropped, rows.notes = found.counts, found.dropped, found.notes
  rows.warnings = found.warnings
  for row in rows:
    check_ids(row.ids, model.vocab_size, row.where, tokenizer)
    if tokenizer.chat_template is not None and isinstance(row.given, str):
      raise DataError(
        f"{row.where}: its prompt is given as token ids, and pairs are written as text, which the chat template would "
        "wrap once more; give prompts as text or messages"
      )
  return rows
