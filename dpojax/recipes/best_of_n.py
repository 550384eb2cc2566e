"""Best of N: what a policy gains that answers N times and keeps the answer with the highest reward. Nothing is trained.

prompts (an environment's held-out ones, or the user's) -> answers.jsonl, rollout.samples a prompt -> rollout.reward chooses,
monitor.rewards are measured beside it -> best_of_n.json, best.jsonl, report.md
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dpojax import __version__
from dpojax.data.prompts import PromptRow
from dpojax.evaluation.best_of_n import best_of_points, read_counts
from dpojax.files import write_json, write_json_lines
from dpojax.parallel import make_mesh
from dpojax.recipes.answers import ANSWERS, answer, rollout_sampling, score
from dpojax.recipes.inputs import Inputs, digest_of_text
from dpojax.recipes.prompts import best_of_prompts
from dpojax.report.best_of_n import BEST_OF_N, REPORT, write_best_of_n
from dpojax.rollout.answers_file import SampledAnswer, answers_job
from dpojax.training.loop import RunResult
from dpojax.training.run_folder import RunFolder
from dpojax.training.stage_record import Fingerprint

BEST = "best.jsonl"


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Measures every N of `best_of_n.counts` from the same answers; a stage that was killed goes on with those it has.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  mesh = make_mesh(config.parallel)
  shared = mesh if mesh.size > 1 else None
  rollout, policy = config.rollout, inputs.language_model()
  counts = read_counts(config.best_of_n.counts, rollout.samples)
  prompts = best_of_prompts(config, policy)
  reward = inputs.reward(rollout.reward, "rollout.reward", policy.tokenizer, mesh=shared)
  beside = inputs.rewards(config.monitor.rewards, "monitor.rewards", policy.tokenizer, mesh=shared)
  rewards = [reward, *(other for other in beside if other.name != reward.name)]
  sampling = rollout_sampling(config)
  job = answers_job(prompts, sampling, weights=policy.digest, model=policy.model, tokenizer=policy.tokenizer)
  read = {"prompts": Fingerprint(job["prompts"], f"{len(prompts):,} prompts")}
  read |= {f"reward {each.name}": Fingerprint(digest_of_text(each.fingerprint)) for each in rewards}
  folder.begin(inputs.fingerprints(policy) | read, inputs.files(), training=False)
  folder.say_prompts(prompts)
  folder.log.message(f"best_of_n: {rollout.samples} answers to each of {len(prompts):,} prompts")

  written = answer(folder, ANSWERS, job, prompts, sampling, policy, model=config.model.path, mesh=shared)
  answers = [row.answers for row in written]
  scores = {each.name: np.stack(score(each, prompts, answers, folder.log.status)) for each in rewards}

  values = {f"reward/{name}": found for name, found in scores.items()} | {
    "length/policy": np.asarray([[len(answer.tokens) for answer in several] for several in answers], np.float64),
    "finished": np.asarray([[answer.finished for answer in several] for several in answers], np.float64),
  }
  different = np.unique([row.ids.tobytes().hex() for row in prompts], return_inverse=True)[1]
  points = best_of_points(scores[reward.name], values, counts, different)
  for point in points:
    metrics = {name: value for name, value in point.items() if name != "n"}
    folder.record_once(int(point["n"]), "best_of_n", metrics)
  found = {
    "chooses": reward.name,
    "points": points,
    "prompts": len(prompts),
    "different_prompts": int(np.max(different)) + 1,
    "answers": job,
    "rewards": {each.name: each.fingerprint for each in rewards},
    "settings": dataclasses.asdict(rollout) | {"rewards": config.monitor.rewards},
    "dpojax": __version__,
  }
  write_json(folder.path / BEST_OF_N, found)
  write_json_lines(folder.path / BEST, best_rows(prompts, answers, scores, reward.name, counts[-1]))
  write_best_of_n(folder.path)
  folder.log.message(f"best_of_n: the best of {counts[-1]} answers in {folder.path / BEST}")
  result = RunResult(0, "finished")
  folder.end(result, files=[BEST_OF_N, BEST, ANSWERS, REPORT])
  return result


def best_rows(
  prompts: Sequence[PromptRow],
  answers: Sequence[Sequence[SampledAnswer]],
  scores: Mapping[str, np.ndarray],
  chooses: str,
  n: int,
) -> list[dict]:
  """The best of each prompt's first `n` answers, of equal ones the first, as rows to learn from:
  {"prompt", "completion", "row", "sample", "n", "rewards", "finished"}.
  """
  rows = []
  for i, (prompt, several) in enumerate(zip(prompts, answers, strict=True)):
    best = int(np.argmax(scores[chooses][i, :n]))
    text = several[best].text
    completion = [{"role": "assistant", "content": text}] if isinstance(prompt.given, list) else text
    found = {name: float(values[i, best]) for name, values in scores.items()}
    origin = {"row": prompt.number, "sample": best, "n": n, "rewards": found, "finished": several[best].finished}
    rows.append({**prompt.columns, "completion": completion, **origin})
  return rows
