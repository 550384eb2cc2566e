"""What a sample says, as text; and how much of what samples say is said once."""

from collections.abc import Sequence

import numpy as np

from dpojax.interop.tokenizer import Tokenizer
from dpojax.rollout.sampler import Sample


def answer_text(sample: Sample, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> str:
  """The text of a sample: special tokens left out, and what stands from the first stop text on."""
  text = tokenizer.decode(sample.tokens, skip_special_tokens=True)
  if sample.ended != "stop":
    return text
  whole = tokenizer.decode(sample.tokens)
  end = min((at for word in stop if (at := whole.find(word)) >= 0), default=len(whole))
  if whole == text:
    return text[:end]
  # The stop text was found among special tokens, whose texts may be a part of it. What stands before it are whole tokens,
  # and perhaps the beginning of the next.
  befores = [tokenizer.decode(sample.tokens[:n]) for n in range(len(sample.tokens))]
  count = max(n for n, before in enumerate(befores) if len(before) <= end and whole.startswith(before))
  special = not tokenizer.decode(sample.tokens[count : count + 1], skip_special_tokens=True)
  beginning = "" if special else whole[len(befores[count]) : end]
  return tokenizer.decode(sample.tokens[:count], skip_special_tokens=True) + beginning


def distinct(samples: Sequence[np.ndarray], n: int) -> float:
  """The fraction of n-grams of tokens that differ, among all of the samples i32[T]; NaN where there is no n-gram.

  References:
    Li et al. 2016, arXiv:1510.03055, Section 5.3: distinct-1 and distinct-2.

  >>> distinct([np.asarray([1, 2, 1, 2])], 2)
  0.6666666666666666
  """
  grams = [tuple(sample[i : i + n].tolist()) for sample in samples for i in range(len(sample) - n + 1)]
  return len(set(grams)) / len(grams) if grams else float("nan")
