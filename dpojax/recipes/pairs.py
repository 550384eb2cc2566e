"""Comparisons that a model writes itself: several answers to each prompt, ordered by a reward.

prompts of the world -> answers of model.path -> true reward -> pairs.jsonl, rankings.jsonl, triples.jsonl
"""

import json

from dpojax.data.dataset import encode_prompts
from dpojax.data.worlds import get_world, pair_rows, ranking_rows
from dpojax.files import write_atomically
from dpojax.parallel import check_one_process
from dpojax.recipes.inputs import PAIRS, PAIRS_FILES, Inputs
from dpojax.rollout.sampler import generate
from dpojax.training.loop import RunResult
from dpojax.training.run_folder import RunFolder
from dpojax.types import Answers


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Writes the same sampled answers as pairs, as whole rankings and as triples, for losses of every kind.

  The files appear when they are complete, so a stage that was killed writes them again, the same.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  check_one_process()
  policy = inputs.language_model()
  folder.begin(inputs.fingerprints(policy), inputs.files(), training=False)
  settings, world, tokenizer = config.pairs, get_world(config.data.name), policy.tokenizer

  prompts = world.prompts(settings.prompts, settings.seed)
  folder.log.message(f"pairs: {settings.samples} answers to each of {len(prompts):,} prompts")
  samples = generate(
    policy.model,
    policy.params,
    encode_prompts(prompts, config.data, tokenizer),
    samples=settings.samples,
    max_tokens=settings.max_tokens,
    eos_id=tokenizer.eos_ids,
    temperature=settings.temperature,
    seed=settings.seed,
    rows=512,
  )
  grouped = [[tokenizer.decode(sample.tokens, skip_special_tokens=True) for sample in each] for each in samples]

  made = {
    PAIRS: pair_rows(world, prompts, grouped, label=settings.label, seed=settings.seed),
    PAIRS_FILES[Answers.RANKING]: ranking_rows(world, prompts, grouped, settings.label, settings.seed),
    PAIRS_FILES[Answers.TRIPLE]: ranking_rows(world, prompts, grouped, settings.label, settings.seed, size=3),
  }
  for name, rows in made.items():
    write_atomically(folder.path / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
  folder.log.message(f"pairs: {len(made[PAIRS]):,} pairs in {folder.path / PAIRS}")
  result = RunResult(0, "finished")
  folder.end(result, files=list(made))
  return result
