"""Answers of one long prompt: the prompt stored once, beside a copy of it for every answer."""

import jax
import numpy as np

from benchmarks.timing import least_seconds
from benchmarks.trainers import live_trainer
from dpojax.config.keys import replace_values
from dpojax.config.schema import BatchSettings, RunConfig
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.training.model_files import LoadedModel


def one_ranking(words: int, prompt: int, answer: int, answers: int) -> TokenDataset:
  """One prompt of random tokens with its ranked answers."""
  ids = np.random.default_rng(0).integers(3, words, (prompt + answer * answers))
  tails = [ids[prompt + k * answer : prompt + (k + 1) * answer] for k in range(answers)]
  return TokenDataset.from_examples([(ids[:prompt], tails)])


def both_forms(dataset: TokenDataset) -> dict[str, Batches]:
  """The data set's step with the prompt stored once, and repeated; rows just long enough."""
  settings = {}
  for name, share in (("shared", True), ("repeated", False)):
    length = dataset[0].row_tokens(share)
    settings[name] = BatchSettings(size=len(dataset), rows=1, row_length=length, share_prompt=share)
  return {name: Batches(dataset, s) for name, s in settings.items()}


def shared(config: RunConfig, loaded: LoadedModel, arguments) -> dict:
  """Seconds of a step of `plackett_luce_dpo` with a live reference in either form, in turns; one trainer takes both."""
  config = replace_values(config, {"loss.name": "plackett_luce_dpo"})
  dataset = one_ranking(loaded.model.config.vocab_size, arguments.prompt, arguments.answer, arguments.answers)
  forms = both_forms(dataset)
  trainer = live_trainer(config, loaded, 1)
  batches = {name: trainer.place(form(0)) for name, form in forms.items()}

  def call(name):
    return jax.block_until_ready(trainer.take_step(batches[name]))

  seconds = least_seconds({name: lambda name=name: call(name) for name in batches}, arguments.repeats, arguments.clock)
  return {
    "prompt": arguments.prompt,
    "answer": arguments.answer,
    "answers": arguments.answers,
    "tokens": forms["shared"].num_tokens(0),
    "row_tokens": {name: dataset[0].row_tokens(name == "shared") for name in forms},
    "seconds": seconds,
  }
