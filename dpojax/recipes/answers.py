"""What a stage's model answers to prompts, in a file that a killed stage goes on with, and what rewards say of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpojax import __version__
from dpojax.config.schema import RunConfig
from dpojax.data.prompts import PromptRow, PromptRows
from dpojax.rewards.reward import PromptedAnswer, Reward
from dpojax.rewards.scores import scored
from dpojax.rollout.answers_file import AnsweredRow, SampledAnswer, Sampling, read_answers, write_answers
from dpojax.rollout.stop import stop_texts
from dpojax.training.model_files import LoadedModel
from dpojax.training.run_folder import RunFolder

ANSWERS = "answers.jsonl"
AT_ONCE = 512  # answers sampled, and scored, together


def rollout_sampling(config: RunConfig) -> Sampling:
  """How the settings `rollout` say that answers are drawn; `config.seed` is added to its seed."""
  rollout = config.rollout
  stop, seed = stop_texts(rollout.stop, "rollout.stop"), rollout.seed + config.seed
  return Sampling(rollout.samples, rollout.max_tokens, rollout.temperature, stop=stop, seed=seed)


def answer(
  folder: RunFolder,
  name: str,
  job: Mapping[str, Any],
  prompts: PromptRows,
  sampling: Sampling,
  policy: LoadedModel,
  *,
  model: str,
  mesh: Mesh | None = None,
  head: str = "sampling",
) -> list[AnsweredRow]:
  """The answers to all prompts, those that an earlier process wrote among them, from the file `name` of the folder.

  Args:
    job: of `answers_job`.
    model: what to call the policy beside the file.
    mesh: the devices.
    head: what progress begins with.
  """
  path = folder.path / name
  path.parent.mkdir(exist_ok=True)
  write_answers(
    path,
    job,
    prompts,
    sampling,
    model=policy.model,
    params=policy.params,
    tokenizer=policy.tokenizer,
    at_once=AT_ONCE,
    rows=AT_ONCE,
    mesh=mesh,
    progress=lambda done, tokens: folder.log.status(f"{head}: {done}/{len(prompts)} prompts, {tokens:,} tokens"),
    about={"model": model, "dpojax": __version__},
    replace_others=True,  # what may be gone on with is settled: the folder is this stage's own
  )
  return [row for row in read_answers(path) if not row.error]


def score(
  reward: Reward, prompts: Sequence[PromptRow], answers: Sequence[Sequence[SampledAnswer]], say: Callable[[str], None]
) -> list[np.ndarray]:
  """f64[N] rewards of the answers to each prompt.

  Those of a prompt are scored in one call, so that equal answers have equal rewards, bit for bit.
  """
  found: list[np.ndarray] = []
  at_once = max(1, AT_ONCE // max(map(len, answers), default=1))
  for start in range(0, len(prompts), at_once):
    some = answers[start : start + at_once]
    say(f"scoring: {start}/{len(prompts)} prompts")
    values = scored(
      reward,
      [
        PromptedAnswer(row.given, answer.text, row.ids, answer.tokens, answer.finished, row.details)
        for row, several in zip(prompts[start : start + at_once], some, strict=True)
        for answer in several
      ],
    )
    found += np.split(values, np.cumsum([len(several) for several in some])[:-1])
  return found
