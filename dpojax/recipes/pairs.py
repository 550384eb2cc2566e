"""Comparisons that a model writes itself: several answers to each prompt, ordered by a reward.

prompts (the environment's, or the user's) -> answers.jsonl of model.path -> pairs.reward -> pairs.jsonl, rankings.jsonl,
triples.jsonl, provenance.json
"""

from dpojax import __version__
from dpojax.errors import DataError
from dpojax.files import write_json, write_json_lines
from dpojax.parallel import make_mesh
from dpojax.recipes.answers import ANSWERS, answer, score
from dpojax.recipes.inputs import PAIRS, PAIRS_FILES, Inputs, digest_of_text
from dpojax.recipes.prompts import prompts_to_answer
from dpojax.rollout.answers_file import Sampling, answers_job
from dpojax.rollout.comparison_rows import comparison_rows
from dpojax.rollout.stop import stop_texts
from dpojax.training.loop import RunResult
from dpojax.training.run_folder import RunFolder
from dpojax.training.stage_record import Fingerprint
from dpojax.types import Answers

PROVENANCE = "provenance.json"


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Writes the same sampled answers as pairs, as whole rankings and as triples, for losses of every kind.

  Answers appear a chunk at a time, and a stage that was killed goes on from there; the other files appear when they are
  complete.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  mesh = make_mesh(config.parallel)
  shared = mesh if mesh.size > 1 else None
  settings, policy = config.pairs, inputs.language_model()
  model, tokenizer = policy.model, policy.tokenizer
  prompts = prompts_to_answer(config, policy)
  reward = inputs.reward(settings.reward, "pairs.reward", tokenizer, mesh=shared)
  sampling = Sampling(
    samples=settings.samples,
    max_tokens=settings.max_tokens,
    temperature=settings.temperature,
    top_k=settings.top_k,
    top_p=settings.top_p,
    stop=stop_texts(settings.stop, "pairs.stop"),
    seed=settings.seed,
  )
  job = answers_job(prompts, sampling, weights=policy.digest, model=model, tokenizer=tokenizer)
  read = {
    "prompts": Fingerprint(job["prompts"], f"{len(prompts):,} prompts"),
    "reward": Fingerprint(digest_of_text(reward.fingerprint), settings.reward),
  }
  folder.begin(inputs.fingerprints(policy) | read, inputs.files(), training=False)

  def say(text: str) -> None:
    folder.log.message(f"pairs: {text}")

  more = prompts.counts["kept"] - len(prompts)
  beyond = f"; {more:,} more are beyond pairs.prompts" if more > 0 else ""
  left_out = f"; left out of {prompts.counts['rows']:,} rows: {prompts.summary}" if prompts.dropped else ""
  say(f"{settings.samples} answers to each of {len(prompts):,} prompts{beyond}{left_out}")

  written = answer(folder, ANSWERS, job, prompts, sampling, policy, model=config.model.path, mesh=shared)
  answers = [row.answers for row in written]
  rewards = score(reward, prompts, answers, folder.log.status)

  made = comparison_rows(
    prompts,
    answers,
    rewards,
    reward=reward.name,
    choose=settings.choose,
    label=settings.label,
    min_margin=settings.min_margin,
    seed=settings.seed,
  )
  if not made.pairs:
    raise DataError(f"pairs: no two answers make a pair ({made.summary}); raise pairs.temperature or pairs.samples")
  files = {
    PAIRS: made.pairs,
    PAIRS_FILES[Answers.RANKING]: made.rankings,
    PAIRS_FILES[Answers.TRIPLE]: made.triples,
  }
  for name, rows in files.items():
    write_json_lines(folder.path / name, rows)
  provenance = {
    "answers": job,
    "reward": {"name": reward.name, "setting": settings.reward, "fingerprint": reward.fingerprint},
    "settings": {name: getattr(settings, name) for name in ("choose", "label", "min_margin", "seed")},
    "counts": made.counts,
    "dpojax": __version__,
  }
  write_json(folder.path / PROVENANCE, provenance)
  say(f"{len(made.pairs):,} pairs in {folder.path / PAIRS} ({made.summary})")
  result = RunResult(0, "finished")
  folder.end(result, files=[*files, PROVENANCE, ANSWERS])
  return result
