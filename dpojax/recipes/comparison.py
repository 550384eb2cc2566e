"""Several policies beside the one that they started from: the same prompts, the same random keys. Nothing is trained.

::

  for each policy, of model.path first:  prompts of each split -> answers/NAME.SPLIT.jsonl, rollout.samples a prompt
    -> rollout.reward and monitor.rewards, exact KL to model.path along the answers
  comparison.oracle: answers of these, scored under all of them -> the oracle curve, and what fraction of it each has gained
  comparison.games: the first answers play each other -> Bradley-Terry strengths
    -> comparison.json, answers.jsonl, scores.npz, report.md

The frontier, the oracle and the tournament are of the first split; the others say how a policy generalises.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpojax import __version__
from dpojax.config.experiment import names_in
from dpojax.config.keys import STAGE
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.prompts import PromptRows
from dpojax.evaluation.oracle import Curve, bootstrap_weights, curve_points, fraction_of_oracle, oracle_curve
from dpojax.evaluation.policies import Measured
from dpojax.evaluation.tournament import tournament
from dpojax.files import replacing, write_json, write_json_lines
from dpojax.parallel import make_mesh
from dpojax.recipes.answers import answer, rollout_sampling, score
from dpojax.recipes.compared import Compared, compared_policies
from dpojax.recipes.inputs import Inputs, digest_of_text
from dpojax.recipes.prompts import comparison_prompts
from dpojax.report.best_of_n import read_best_of_n
from dpojax.report.comparison import ANSWERS, COMPARISON, REPORT, SCORES, write_comparison
from dpojax.rewards.reward import Reward
from dpojax.rollout.answers_file import AnsweredRow, answers_job, prompts_digest
from dpojax.scoring import measure_divergence, score_answers
from dpojax.training.loop import RunResult
from dpojax.training.model_files import LoadedModel
from dpojax.training.run_folder import RunFolder
from dpojax.training.stage_record import Fingerprint

A_ROW = 8  # answers that share a prompt in a packed row
ROWS = 8  # of a packed group


@dataclasses.dataclass(frozen=True)
class Answered:
  """What a policy wrote after the prompts of a split, and what was measured of it."""

  rows: list[AnsweredRow]
  measured: Measured


def run(config, inputs: Inputs, folder: RunFolder) -> RunResult:
  """Measures every policy; a stage that was killed goes on with the answers that it has.

  Raises:
    InputError: something that the user can mend; the message says how.
  """
  mesh = make_mesh(config.parallel)
  shared = mesh if mesh.size > 1 else None
  settings, rollout, reference = config.comparison, config.rollout, inputs.language_model()
  policies = list(compared_policies(inputs, reference))
  prompts = comparison_prompts(config, reference)
  rewards = [inputs.reward(rollout.reward, "rollout.reward", reference.tokenizer, mesh=shared)]
  for other in inputs.rewards(config.monitor.rewards, "monitor.rewards", reference.tokenizer, mesh=shared):
    rewards += [other] if all(other.name != known.name for known in rewards) else []
  read = {f"policy {policy.name}": Fingerprint(policy.loaded.digest) for policy in policies}
  read |= {f"reward {each.name}": Fingerprint(digest_of_text(each.fingerprint)) for each in rewards}
  for split, rows in prompts.items():
    read[f"prompts {split}"] = Fingerprint(prompts_digest(rows), f"{len(rows):,} prompts")
  folder.begin(inputs.fingerprints(reference) | read, inputs.files(), training=False)
  for split, rows in prompts.items():
    folder.say_prompts(rows, split)
  count = sum(map(len, prompts.values()))
  folder.log.message(
    f"comparison: {len(policies)} policies answer {count:,} prompts, {rollout.samples} times each; compared by "
    f"{rewards[0].name}"
  )

  first, main_reward = next(iter(prompts)), rewards[0].name
  found: dict[str, dict[str, Answered]] = {}  # by policy and split
  for number, policy in enumerate(policies, 1):
    found[policy.name] = {
      split: answered(folder, f"{number} of {len(policies)}", policy, split, rows, reference, rewards, shared)
      for split, rows in prompts.items()
    }
    measured = found[policy.name][first].measured.summary()
    reward, kl = measured[f"reward/{main_reward}"], measured["kl"]
    folder.log.message(f"{policy.name}: {main_reward} {reward:.3f} at {kl:.3f} nats an answer")

  of_first = {name: splits[first] for name, splits in found.items()}
  draws = bootstrap_weights(len(prompts[first]), seed=config.seed)
  carrying = [policies[0].name, *(name.removeprefix(STAGE) for name in names_in(settings.oracle))]
  curve = None
  if len(carrying) > 1:
    chosen = [policy for policy in policies if policy.name in carrying]
    curve = oracle(chosen, prompts[first], of_first, main_reward, folder.log.status, shared)
  rows = []
  for policy in policies:
    measured = {split: one.measured.summary() for split, one in found[policy.name].items()}
    gained = oracle_fraction(
      curve, of_first[policy.name].measured, of_first[policies[0].name].measured, main_reward, draws
    )
    rows.append(policy.facts(folder.path) | {"splits": measured} | gained)
  names = list(found)
  played = np.stack([of_first[name].measured.rewards[main_reward][:, 0] for name in names], axis=1)
  result = {
    "reward": main_reward,
    "rewards": [each.name for each in rewards],
    "reference": names[0],
    "splits": list(prompts),
    "policies": rows,
    "best_of_n": best_of_points(inputs, settings.best_of_n),
    "oracle": curve and curve_facts(curve, draws, carrying),
    "tournament": tournament(played, names, settings.games, config.seed) if settings.games else None,
    "settings": dataclasses.asdict(rollout) | {"rewards": config.monitor.rewards},
    "prompts": len(prompts[first]),
    "samples_a_prompt": rollout.samples,
    "seed": config.seed,
    "dpojax": __version__,
  }
  write_json_lines(folder.path / ANSWERS, answer_rows(prompts, found))
  with replacing(folder.path / SCORES, "wb") as file:
    np.savez(file, allow_pickle=False, **by_prompt(found))
  write_json(folder.path / COMPARISON, result)
  write_comparison(folder.path)
  ended = RunResult(0, "finished")
  folder.end(ended, files=[COMPARISON, ANSWERS, SCORES, REPORT])
  return ended


def answered(
  folder: RunFolder,
  place: str,
  policy: Compared,
  split: str,
  prompts: PromptRows,
  reference: LoadedModel,
  rewards: Sequence[Reward],
  mesh: Mesh | None,
) -> Answered:
  """What a policy writes after the prompts of a split; of an earlier process what it has written."""
  rollout, loaded, status = folder.config.rollout, policy.loaded, folder.log.status
  sampling = rollout_sampling(folder.config)
  job = answers_job(prompts, sampling, weights=loaded.digest, model=loaded.model, tokenizer=loaded.tokenizer)
  name = f"answers/{policy.name}{'.' * bool(split)}{split}.jsonl"
  head = f"{policy.name} ({place}){', ' * bool(split)}{split}"
  rows = answer(folder, name, job, prompts, sampling, loaded, model=policy.name, mesh=mesh, head=head)
  samples = [sample for row in rows for sample in row.answers]
  status(f"{head}: KL to {folder.config.model.path}")
  kl = measure_divergence(
    loaded.model,
    loaded.params,
    reference.params,
    [row.ids for row in prompts for _ in range(rollout.samples)],
    samples,
    temperature=rollout.temperature,
    rows=ROWS,
    mesh=mesh,
  ).kl
  shape = len(prompts), rollout.samples
  measured = Measured(
    kl.reshape(shape),
    {each.name: np.stack(score(each, prompts, [row.answers for row in rows], status)) for each in rewards},
    np.asarray([len(sample.tokens) for sample in samples]).reshape(shape),
    np.asarray([sample.finished for sample in samples]).reshape(shape),
  )
  return Answered(rows, measured)


def oracle(
  policies: Sequence[Compared],
  prompts: PromptRows,
  found: Mapping[str, Answered],
  main_reward: str,
  status: Callable[[str], None],
  mesh: Mesh | None = None,
) -> Curve:
  """The oracle curve from the answers of these policies, the reference first, each scored under all of them."""
  samples = [[one for policy in policies for one in found[policy.name].rows[i].answers] for i in range(len(prompts))]
  examples = [
    TokenExample(row.ids, tuple(one.tokens for one in several[start : start + A_ROW]))
    for row, several in zip(prompts, samples, strict=True)
    for start in range(0, len(several), A_ROW)
  ]
  logps = []
  for policy in policies:
    status(f"oracle: {policy.name} scores {sum(map(len, samples)):,} answers")
    scores = score_answers(policy.loaded.model, policy.loaded.params, TokenDataset(examples), rows=ROWS, mesh=mesh)
    logps.append(np.concatenate([each.logps for each in scores]).reshape(len(prompts), -1))
  rewards = [found[policy.name].measured.rewards[main_reward] for policy in policies]
  counts = [values.shape[1] for values in rewards]
  return oracle_curve(np.concatenate(rewards, axis=1), logps[0], np.stack(logps, axis=-1), counts)


def curve_facts(curve: Curve, draws: np.ndarray, policies: Sequence[str]) -> dict[str, Any]:
  """The oracle curve in comparison.json; `cut_at` is the first lambda with too few effective answers."""
  cut = float(curve.lambdas[curve.shown]) if len(curve.lambdas) > curve.shown else None
  return {"points": curve_points(curve, draws), "cut_at": cut, "policies": list(policies)}


def oracle_fraction(
  curve: Curve | None, policy: Measured, reference: Measured, main_reward: str, draws: np.ndarray
) -> dict[str, Any]:
  """Of the oracle's gain at the policy's KL; nothing of the reference, which has no gain."""
  if curve is None or policy is reference:
    return dict.fromkeys(("oracle", "share", "share_low", "share_high"))
  own, before = policy.by_prompt(), reference.by_prompt()
  return fraction_of_oracle(curve, own["kl"], own[f"reward/{main_reward}"], before[f"reward/{main_reward}"], draws)


def best_of_points(inputs: Inputs, path: str) -> list[dict[str, Any]]:
  """The points of a stage of recipe=best_of_n, with `kl` as policies have it; none where no stage is named."""
  if not path:
    return []
  points = read_best_of_n(inputs.folders[path.strip().removeprefix(STAGE)])["points"]
  renamed = {"kl/sequence": "kl", "kl/sequence_error": "kl_error"}
  return [{str(renamed.get(name, name)): value for name, value in point.items()} for point in points]


def by_prompt(found: Mapping[str, Mapping[str, Answered]]) -> dict[str, np.ndarray]:
  """f64[P] means over a prompt's answers by "NAME/SPLIT/kl" and "NAME/SPLIT/reward/REWARD"."""
  return {
    f"{name}/{split}/{key}": values
    for name, splits in found.items()
    for split, one in splits.items()
    for key, values in one.measured.by_prompt().items()
  }


def answer_rows(prompts: Mapping[str, PromptRows], found: Mapping[str, Mapping[str, Answered]]) -> list[dict[str, Any]]:
  """A row for each prompt: the first answer of every policy, drawn under the same keys."""

  def first(one: Answered, i: int) -> dict[str, Any]:
    answer, measured = one.rows[i].answers[0], one.measured
    rewards = {name: float(values[i, 0]) for name, values in measured.rewards.items()}
    facts = {"kl": float(measured.kl[i, 0]), "tokens": len(answer.tokens), "finished": answer.finished}
    return {"text": answer.text, "rewards": rewards, **facts}

  return [
    {
      "split": split,
      "row": prompt.number,
      "prompt": prompt.given,
      "answers": {name: first(splits[split], i) for name, splits in found.items()},
    }
    for split, some in prompts.items()
    for i, prompt in enumerate(some)
  ]
