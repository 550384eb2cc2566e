"""How much of the possible a trained policy gains: true reward against KL, beside the oracle curve.

  python experiments/oracle_curve.py --reference=runs/ppo/sft --out=oracle.json runs/ppo/ppo [more runs ...]

All runs are of the complaint desk (or another built-in world) and were trained from the reference. Each answers the same
held-out prompts; every answer is scored under every run, and by the true reward. The oracle curve is pi_ref
e^(r / lambda), estimated from all of these answers as `dpojax.evaluation.oracle` says: no policy has more reward at its
KL. Runs that are far from the reference carry the curve further. oracle.json gets:

  "points"     of the curve, as far as the effective sample size goes: lambda, kl (nats an answer), reward, ess, and 95 %
               intervals by a bootstrap over prompts
  "policies"   of each run kl (exact along its own answers), reward, their standard errors over prompts, the reward of
               the oracle at its KL, and the share of the oracle's gain over the reference, with an interval
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpojax.config.schema import DataSettings
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.prompts import PromptRow, prompts_given
from dpojax.environments import World, get_world
from dpojax.errors import ConfigError, InputError
from dpojax.evaluation.oracle import bootstrap_weights, curve_points, oracle_curve, share_of_oracle
from dpojax.files import write_atomically
from dpojax.rollout.answers_file import Sampling, sample
from dpojax.rollout.sampler import Sample
from dpojax.rollout.text import answer_text
from dpojax.scoring import measure_divergence, score_answers
from dpojax.training.model_files import LoadedModel, load_writer

AT_ONCE = 512  # answers sampled together
A_ROW = 8  # answers that share a prompt in a packed row


def main(arguments: list[str]) -> int:
  options = parser().parse_args(arguments)
  began = time.perf_counter()
  try:
    found = measure(options)
  except InputError as error:
    print(f"oracle_curve: {error}", file=sys.stderr)
    return 1
  found["seconds"] = round(time.perf_counter() - began, 1)
  write_atomically(options.out, json.dumps(found, indent=2) + "\n")
  print(table(found))
  return 0


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  made.add_argument("policies", nargs="*", metavar="RUN", help="folders of trained runs, or of their checkpoints")
  made.add_argument("--reference", required=True, metavar="RUN", help="the run that they were trained from")
  made.add_argument("--prompts", type=int, default=256, help="held-out prompts (256)")
  made.add_argument("--samples", type=int, default=32, help="answers of each policy to a prompt (32)")
  made.add_argument("--max-tokens", type=int, default=48, help="longest answer (48)")
  made.add_argument("--world", default="complaint_desk", help="whose prompts and true reward (complaint_desk)")
  made.add_argument("--seed", type=int, default=1000, help="of prompts, answers and bootstrap (1000)")
  made.add_argument("--out", default="oracle.json", help="file to write (oracle.json)")
  return made


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """All of oracle.json.

  Raises:
    InputError: a run is missing, or is not one that the reference can be compared with.
  """
  paths = [options.reference, *options.policies]
  if options.prompts < 2 or options.samples < 1:
    raise ConfigError("--prompts must be 2 or more and --samples 1 or more")
  models = [load_writer(path) for path in paths]
  for path, loaded in zip(paths, models, strict=True):
    if loaded.model.config != models[0].model.config or (
      loaded.tokenizer.fingerprint() != models[0].tokenizer.fingerprint()
    ):
      raise ConfigError(f"{path} has another shape or tokenizer than {paths[0]}, so no KL is defined between them")
  world = get_world(options.world)
  texts = world.prompts(options.prompts, options.seed, split="held_out")
  prompts = prompts_given(texts, DataSettings(), models[0].tokenizer)

  written = []
  for i, (path, loaded) in enumerate(zip(paths, models, strict=True)):
    say(f"{path} answers {len(prompts):,} prompts, {options.samples} times each")
    sampling = Sampling(options.samples, options.max_tokens, seed=options.seed + i)
    ids = [row.ids for row in prompts]
    written.append(sample(loaded.model, loaded.params, loaded.tokenizer, ids, sampling, rows=AT_ONCE))
  samples = [[one for policy in written for one in policy[i]] for i in range(len(prompts))]  # the reference's first
  rewards = true_rewards(world, texts, samples, models[0])
  logps = np.stack([log_probs(path, loaded, prompts, samples) for path, loaded in zip(paths, models, strict=True)], -1)

  curve = oracle_curve(rewards, logps[..., 0], logps, [options.samples] * len(paths))
  draws = bootstrap_weights(len(prompts), seed=options.seed)
  by_policy = np.mean(rewards.reshape(len(prompts), len(paths), options.samples), axis=2)
  policies = []
  for i, path in enumerate(paths[1:], 1):
    say(f"exact KL of {path}")
    kl = exact_kl(models[i], models[0], prompts, written[i])
    summary = estimates(kl, by_policy[:, i])
    policies.append({"path": path, **summary, **share_of_oracle(curve, kl, by_policy[:, i], by_policy[:, 0], draws)})
  reached = len(curve.lambdas) > curve.shown
  return {
    "reference": {"path": paths[0], **estimates(np.zeros(len(prompts)), by_policy[:, 0])},
    "policies": policies,
    "points": curve_points(curve, draws),
    "cut_at": float(curve.lambdas[curve.shown]) if reached else None,  # the first lambda with too few effective answers
    "settings": {name: getattr(options, name) for name in ("world", "prompts", "samples", "max_tokens", "seed")},
  }


def true_rewards(
  world: World, texts: Sequence[str], samples: Sequence[Sequence[Sample]], loaded: LoadedModel
) -> np.ndarray:
  """f64[P, K] of K answers to each of P prompts."""
  return np.asarray(
    [
      [world.reward(text, answer_text(one, loaded.tokenizer)) for one in several]
      for text, several in zip(texts, samples, strict=True)
    ]
  )


def log_probs(
  path: str, loaded: LoadedModel, prompts: Sequence[PromptRow], samples: Sequence[Sequence[Sample]]
) -> np.ndarray:
  """f64[P, K] nats of whole answers under a policy."""
  examples = [
    TokenExample(row.ids, tuple(one.tokens for one in several[start : start + A_ROW]))
    for row, several in zip(prompts, samples, strict=True)
    for start in range(0, len(several), A_ROW)
  ]
  progress = functools.partial(_scored, path, len(examples))
  scores = score_answers(loaded.model, loaded.params, TokenDataset(examples), rows=8, progress=progress)
  say("")
  return np.concatenate([score.logps for score in scores]).reshape(len(prompts), -1)


def _scored(path: str, count: int, done: int, tokens: int) -> None:
  if not sys.stderr.isatty():
    return
  print(f"\r{path} scores answers: {done:,}/{count:,} rows, {tokens:,} tokens", end="", file=sys.stderr, flush=True)


def exact_kl(
  loaded: LoadedModel, reference: LoadedModel, prompts: Sequence[PromptRow], written: Sequence[Sequence[Sample]]
) -> np.ndarray:
  """f64[P] nats an answer, the mean over a prompt's answers of the exact KL along them."""
  every = [(row.ids, one) for row, several in zip(prompts, written, strict=True) for one in several]
  found = measure_divergence(
    loaded.model, loaded.params, reference.params, [ids for ids, _ in every], [one for _, one in every]
  )
  return np.mean(found.kl.reshape(len(prompts), -1), axis=1)


def estimates(kl: np.ndarray, reward: np.ndarray) -> dict[str, float]:
  """Means over prompts and their standard errors."""
  root = np.sqrt(len(kl))
  return {
    "kl": float(np.mean(kl)),
    "kl_error": float(np.std(kl, ddof=1) / root),
    "reward": float(np.mean(reward)),
    "reward_error": float(np.std(reward, ddof=1) / root),
  }


def table(found: dict[str, Any]) -> str:
  """The policies beside the oracle, and where the curve ends."""
  lines = [f"{'reward':>16} {'KL, nats':>15} {'oracle':>8} {'share of its gain':>24}  run"]
  for row in (found["reference"], *found["policies"]):
    at = f"{row['oracle']:8.3f}" if row.get("oracle") is not None else " " * 8
    known = row.get("share_low") is not None and row["share_high"] is not None
    interval = f" [{row['share_low']:.1%}, {row['share_high']:.1%}]" if known else ""
    share = f"{row['share']:.1%}{interval}" if at.strip() else ""
    if not share and row is not found["reference"]:
      beyond = not found["points"] or row["kl"] > found["points"][-1]["kl"]
      share = "beyond the curve" if beyond else "the oracle's gain is 0"
    reward, kl = (f"{row[name]:.3f} ± {row[f'{name}_error']:.3f}" for name in ("reward", "kl"))
    lines.append(f"{reward:>16} {kl:>15} {at} {share:>24}  {row['path']}")
  points = found["points"]
  if points:
    end = points[-1]
    lines.append(
      f"the oracle curve ends at lambda {end['lambda']:.3g}: reward {end['reward']:.3f} at {end['kl']:.3f} nats, "
      f"{end['ess']:,.0f} effective answers, {end['ess_a_prompt']:.1f} a prompt"
    )
  return "\n".join([*lines, f"{found.get('seconds', 0)} s"])


def say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
