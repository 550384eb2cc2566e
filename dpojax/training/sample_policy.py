"""What the policy writes now: its answers to held-out prompts, their true reward and their KL."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from dpojax.config.schema import MonitorSettings
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.language_model import LanguageModel
from dpojax.rollout.sampler import generate
from dpojax.scoring import sample_kl
from dpojax.types import Params

Reward = Callable[[str, str], float]


@dataclasses.dataclass(frozen=True)
class PolicySampler:
  """Samples answers to fixed prompts and measures them.

  KL to the reference is a property of text that the policy wrote: it is measured here and nowhere
  else, as the sum over an answer's tokens of the exact KL between the two next-token distributions.

  Attributes:
    model: of the policy and of the reference.
    reference: a function that gives the reference's parameters, so that a run with cached log-probs
      holds them in memory only while it samples.
    tokenizer: decodes answers.
    prompts: token ids i32[P] of each prompt.
    prompt_texts: the same prompts as a person reads them.
    reward: (prompt text, answer text) -> true reward, where the world knows one.
    display: turns a text into what a person reads in the records.
  """

  model: LanguageModel
  reference: Callable[[], Params]
  tokenizer: Tokenizer
  prompts: Sequence[np.ndarray]
  prompt_texts: Sequence[str]
  settings: MonitorSettings
  reward: Reward | None = None
  display: Callable[[str], str] = str

  def __call__(self, params: Params) -> tuple[dict[str, float], list[dict]]:
    """(metrics, one record per prompt) of what `params` write.

    Metrics: `kl/sequence` (nats an answer), `kl/token` (nats a token, over all tokens), their
    standard error `kl/sequence_error`; `length/policy` (tokens), `finished` (share that ended by
    EOS); `reward/true` and its standard error `reward/true_error` where there is a reward.
    """
    settings = self.settings
    written = generate(
      self.model,
      params,
      self.prompts,
      max_tokens=settings.max_tokens,
      eos_id=self.tokenizer.eos_ids,
      temperature=settings.temperature,
      top_p=settings.top_p,
      seed=settings.seed,
    )
    samples = [each[0] for each in written]
    kl, tokens = sample_kl(self.model, params, self.reference(), self.prompts, samples)
    metrics = {
      "kl/sequence": float(np.mean(kl)),
      "kl/sequence_error": _standard_error(kl),
      "kl/token": float(np.sum(kl) / np.sum(tokens)),
      "length/policy": float(np.mean(tokens)),
      "finished": float(np.mean([s.finished for s in samples])),
    }
    answers = [self.tokenizer.decode(s.tokens, skip_special_tokens=True) for s in samples]
    records = [
      {
        "prompt": self.display(prompt),
        "answer": self.display(answer),
        "kl": float(k),
        "tokens": int(t),
        "finished": bool(s.finished),
      }
      for prompt, answer, k, t, s in zip(self.prompt_texts, answers, kl, tokens, samples, strict=True)
    ]
    if self.reward is not None:
      rewards = np.asarray([self.reward(*text) for text in zip(self.prompt_texts, answers, strict=True)], np.float64)
      for record, reward in zip(records, rewards, strict=True):
        record["reward"] = float(reward)
      metrics |= {"reward/true": float(np.mean(rewards)), "reward/true_error": _standard_error(rewards)}
    return metrics, records


def _standard_error(values: np.ndarray) -> float:
  return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
