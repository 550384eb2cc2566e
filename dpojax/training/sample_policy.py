"""A look at what the policy writes now: its answers to held-out prompts, their rewards, and how far it has moved."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpojax import digests
from dpojax.config.schema import MonitorSettings
from dpojax.data.prompts import PromptRow
from dpojax.errors import CheckpointError
from dpojax.files import parse_json
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.language_model import LanguageModel
from dpojax.parallel.rules import whole_rows
from dpojax.rewards.judge import FunctionJudge, preferences
from dpojax.rewards.normalisation import apply, measure
from dpojax.rewards.reward import Judge, PromptedAnswer, Reward
from dpojax.rewards.scores import scored
from dpojax.rewards.win_rate import win_rate
from dpojax.rollout.sampler import Sample, generate
from dpojax.rollout.stop import stop_texts
from dpojax.rollout.text import distinct
from dpojax.scoring import Divergence, measure_divergence
from dpojax.training.answering import prompted, text_of
from dpojax.training.policy_samples import SAMPLES
from dpojax.training.stopping import kl_per_token, standard_error
from dpojax.training.stored_files import MEASURED_ANEW, read_json, save_json
from dpojax.types import Params

REFERENCE, NORMALISATION = f"{SAMPLES}/reference.jsonl", "rewards.json"


class PolicySampler:
  """Samples answers to fixed prompts with fixed keys and measures them: two looks differ by the policy alone.

  KL to the reference is a property of text that the policy wrote: it is measured here and nowhere else. The
  reference answers the same prompts once, and what it wrote, its rewards and the rewards' gain and bias stay in
  `folder`, so that a run that goes on compares with the same.

  Args:
    model: of the policy and of the reference.
    tokenizer: decodes answers.
    prompts: what to answer.
    settings: how many tokens, how drawn.
    reference: gives the reference's parameters, so that a run with cached log-probs holds them only while it looks.
    rewards: what scores the answers; the first is the one that decides.
    judge: says which of two answers is better, for win rates against the reference; None: the first reward does.
    folder: of the run.
    mesh: the devices that share the work; None: where the parameters are.
    status: shows passing text, of how far a look is; None: nobody reads it.
  """

  def __init__(
    self,
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[PromptRow],
    settings: MonitorSettings,
    reference: Callable[[], Params],
    *,
    rewards: Sequence[Reward] = (),
    judge: Judge | None = None,
    folder: pathlib.Path,
    mesh: Mesh | None = None,
    status: Callable[[str], None] | None = None,
  ):
    self.model, self.tokenizer, self.prompts, self.settings = model, tokenizer, prompts, settings
    self._reference, self._rewards, self._judge = reference, list(rewards), judge
    self._folder, self._mesh, self._status = folder, mesh, status
    self._stop = stop_texts(settings.stop, "monitor.stop")
    self._before: ReferenceAnswers | None = None

  @property
  def truncated(self) -> bool:
    """Whether answers are drawn from less than the policy's whole distribution, so that no KL can be had from them."""
    settings = self.settings
    return settings.temperature == 0 or settings.top_k > 0 or settings.top_p < 1

  def __call__(self, params: Params) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """(metrics, one record a prompt) of what `params` write.

    Metrics, with `*_error` their standard error over prompts: `reward/NAME` of every reward; `kl/sequence` (nats an
    answer) and `kl/token` (nats a token, over all tokens), exact; `kl/k1`, `kl/k3` (nats an answer), their estimates
    from the tokens that were drawn; `entropy` (nats a token); `length/policy` (tokens); `finished` (fraction that ended
    by itself); `distinct/1`, `distinct/2`; `win_rate` against the reference's answers with `win_rate_low` and
    `win_rate_high`, and `judge/position_bias` of a user's judge: by how much standing first helps. All at the sampling temperature. Under top-k, a nucleus or greedy choice KL is no expectation over
    what was drawn: then it is called `path_kl/*`.
    """
    reference = self._reference()
    before = self._reference_answers(reference)
    samples = self._write(params, "the policy")
    answers = self._answered(samples)
    self._say(f"look: measuring {len(answers):,} answers")
    prompts = [row.ids for row in self.prompts]
    found = measure_divergence(
      self.model,
      params,
      reference,
      prompts,
      samples,
      temperature=self.settings.temperature or 1.0,
      rows=whole_rows(8, self._mesh),
      mesh=self._mesh,
    )
    metrics = self._moved(found)
    metrics |= {
      "length/policy": float(np.mean(found.tokens)),
      "finished": float(np.mean([sample.finished for sample in samples])),
      "distinct/1": distinct([sample.tokens for sample in samples], 1),
      "distinct/2": distinct([sample.tokens for sample in samples], 2),
    }
    scores = {reward.name: scored(reward, answers) for reward in self._rewards}
    for name, values in scores.items():
      metrics |= {f"reward/{name}": float(np.mean(values)), f"reward/{name}_error": known(standard_error(values))}
    if before is not None:
      preferences, bias = self._preferences(answers, scores, before)
      rate = win_rate(preferences)
      metrics |= {"win_rate": rate.rate, "win_rate_low": rate.low, "win_rate_high": rate.high} | bias
    return metrics, self._records(answers, samples, scores, found)

  def _moved(self, found: Divergence) -> dict[str, float]:
    kind = "path_kl" if self.truncated else "kl"
    per_token, error = kl_per_token(found.kl, found.tokens)
    return {
      f"{kind}/sequence": float(np.mean(found.kl)),
      f"{kind}/sequence_error": known(standard_error(found.kl)),
      f"{kind}/token": per_token,
      f"{kind}/token_error": known(error),
      f"{kind}/k1": float(np.mean(found.k1)),
      f"{kind}/k3": float(np.mean(found.k3)),
      "entropy": float(np.sum(found.entropy) / np.sum(found.tokens)),
    }

  def _say(self, text: str) -> None:
    if self._status is not None:
      self._status(text)

  def _write(self, params: Params, who: str) -> list[Sample]:
    settings, count = self.settings, len(self.prompts)
    self._say(f"look: {who} answers {count:,} prompts")
    written = generate(
      self.model,
      params,
      [row.ids for row in self.prompts],
      max_tokens=settings.max_tokens,
      eos_id=self.tokenizer.eos_ids,
      temperature=settings.temperature,
      top_k=settings.top_k,
      top_p=settings.top_p,
      stop=self._stop,
      decode=self.tokenizer.decode,
      seed=settings.seed,
      rows=whole_rows(64, self._mesh),
      mesh=self._mesh,
      progress=lambda done, tokens: self._say(f"look: {who} answers, {done:,}/{count:,} prompts, {tokens:,} tokens"),
    )
    return [sample for (sample,) in written]

  def _answered(self, samples: Sequence[Sample]) -> list[PromptedAnswer]:
    return prompted(self.prompts, [[sample] for sample in samples], text_of(self.tokenizer, self._stop))

  def _records(self, answers, samples, scores, found: Divergence) -> list[dict[str, Any]]:
    return [
      {
        "prompt": row.text,
        "answer": answer.answer,
        "rewards": {name: float(values[i]) for name, values in scores.items()},
        "kl": float(found.kl[i]),
        "tokens": int(found.tokens[i]),
        "finished": bool(sample.finished),
        "ended": sample.ended,
        "ids": sample.tokens.tolist(),
      }
      for i, (row, answer, sample) in enumerate(zip(self.prompts, answers, samples, strict=True))
    ]

  def _preferences(self, answers, scores, before: "ReferenceAnswers") -> tuple[np.ndarray, dict[str, float]]:
    """f64[N]: 1 where the policy's answer is better than the reference's, 1/2 where neither is; and the judge's bias."""
    if self._judge is None:
      name = self._rewards[0].name
      found = preferences(scores[name], before.scores[name])
      # Scored in two calls, and so packed beside others, a learned reward of one and the same answer differs by rounding.
      same = [written_alike(*pair) for pair in zip(answers, before.answers, strict=True)]
      return np.where(same, 0.5, found), {}
    if isinstance(self._judge, FunctionJudge):
      judged = self._judge.compare(answers, before.answers)
      return judged.preference, {"judge/position_bias": float(np.mean(judged.position_bias))}
    return self._judge(answers, before.answers), {}

  def _reference_answers(self, reference: Params) -> "ReferenceAnswers | None":
    """What the reference wrote; written, scored and kept at the first look. Settles the rewards' gain and bias."""
    if self._before is None and (self._rewards or self._judge is not None):
      lines = read_lines(self._folder, self.prompts)
      if lines is None:
        samples = self._write(reference, "the reference")
        answers = self._answered(samples)
        scores = {reward.name: scored(reward, answers) for reward in self._rewards}
        lines = [
          {
            "prompt": row.given,
            "ids": sample.tokens.tolist(),
            "ended": sample.ended,
            "rewards": {name: float(values[i]) for name, values in scores.items()},
          }
          for i, (row, sample) in enumerate(zip(self.prompts, samples, strict=True))
        ]
        digests.write_json_lines(self._folder, REFERENCE, lines)
      samples = [Sample(np.asarray(line["ids"], np.int32), line["ended"], np.zeros(0, np.float32)) for line in lines]
      answers = self._answered(samples)
      scores = {reward.name: np.asarray([line["rewards"][reward.name] for line in lines]) for reward in self._rewards}
      if self.settings.normalise:
        self._rewards, scores = self._normalised(answers, scores)
      self._before = ReferenceAnswers(answers, scores)
    return self._before

  def _normalised(self, answers, scores) -> tuple[list[Reward], dict[str, np.ndarray]]:
    """The rewards with the gain and bias that were recorded, or are measured now, and the scores that they give."""
    path = self._folder / NORMALISATION
    digests.check(self._folder, [NORMALISATION])
    recorded = read_json(path, MEASURED_ANEW)
    if recorded is None or sorted(recorded["rewards"]) != sorted(reward.name for reward in self._rewards):
      recorded = {"rewards": {reward.name: measure(reward, answers) for reward in self._rewards}}
      save_json(path, recorded)
      digests.list_files(self._folder, [NORMALISATION])
    rewards = [apply(reward, recorded["rewards"][reward.name]) for reward in self._rewards]
    return rewards, {reward.name: scored(reward, answers) for reward in rewards}


@dataclasses.dataclass(frozen=True)
class ReferenceAnswers:
  """What the reference wrote to the prompts, and f64[N] of every reward."""

  answers: Sequence[PromptedAnswer]
  scores: dict[str, np.ndarray]


def written_alike(answer: PromptedAnswer, other: PromptedAnswer) -> bool:
  """Whether two answers are the same tokens."""
  assert answer.answer_ids is not None and other.answer_ids is not None
  return np.array_equal(answer.answer_ids, other.answer_ids)


def read_lines(folder: pathlib.Path, prompts: Sequence[PromptRow]) -> list[dict[str, Any]] | None:
  """The reference's answers to exactly these prompts, or None where a run's folder does not hold them.

  Raises:
    CheckpointError: the file is gone or not what was written.
  """
  try:
    lines = [parse_json(line) for line in digests.read(folder, REFERENCE).splitlines()]
    same = [line["prompt"] for line in lines] == [row.given for row in prompts]
  except FileNotFoundError:
    return None
  except CheckpointError:
    raise
  except (ValueError, TypeError, KeyError):
    return None  # damaged, and not listed
  return lines if same else None


def known(error: Any) -> float:
  """A standard error as records have it: 0 where one prompt has none."""
  return float(np.nan_to_num(error))
