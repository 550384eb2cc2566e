"""Folders as stages leave them, made without a run: stage.json, metrics.jsonl, model.json, samples, comparison.json."""

import json
import math
import os

import numpy as np

from dpojax.config.keys import replace_values
from dpojax.config.record import identity_settings
from dpojax.config.schema import RunConfig
from dpojax.training.stage_record import Ended, Fingerprint, Source, StageRecord, read_record, write_record

MODEL = {
  "vocab_size": 50,
  "hidden": 8,
  "layers": 2,
  "heads": 2,
  "kv_heads": 1,
  "head_dim": 4,
  "ffn": 16,
  "tie_embeddings": True,
}
SIZE = 2 * (2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16 + 2 * 8) + 8  # of MODEL without embeddings, by hand
WORLD = {"data.source": "world", "data.name": "complaint_desk"}
PROMPTS = [f"prompt {i}" for i in range(12)]


def make_stage(
  folder, recipe, values=None, *, sources=None, metrics=(), model=MODEL, ended=True, fingerprints=None, samples=None
):
  """Writes a stage of `recipe` with these settings; `sources`: setting -> folder of an earlier stage."""
  folder.mkdir(parents=True, exist_ok=True)
  config = replace_values(RunConfig(), {"recipe": recipe, **WORLD, **(values or {})})
  settings = json.loads(json.dumps(identity_settings(config)))
  return _write(folder, settings, sources, metrics, model, ended, fingerprints, samples)


def _write(folder, settings, sources, metrics, model, ended, fingerprints=None, samples=None):
  found = {
    key: Source(other.name, str(_relative(other, folder)), read_record(other).identity)
    for key, other in (sources or {}).items()
  }
  prints = {name: Fingerprint(*value) for name, value in (fingerprints or {}).items()}
  write_record(folder, StageRecord(settings, found, prints, {}, Ended("finished", 1) if ended else None))
  start = {
    "started": "2026-01-02T03:04:05+00:00",
    "commit": "c0ffee00" * 5,
    "clean": True,
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
  }
  (folder / "environment.json").write_text(json.dumps([start]))
  if model is not None:
    (folder / "model.json").write_text(json.dumps(model))
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
  for step, rows in (samples or {}).items():
    (folder / "samples").mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "samples" / f"step_{step:08d}.jsonl").write_text(text, encoding="utf-8")
  return folder


def _relative(other, folder):
  return os.path.relpath(other, folder)


def train_rows(steps, *, tokens=100, **metrics):
  """Records of the split `train`: `tokens` more a step, half a second each."""
  return [
    {"step": s, "split": "train", "loss": 1 / s, "num_tokens": tokens * s, "time/step": 0.5, **metrics}
    for s in range(1, steps + 1)
  ]


def look(step, kl, reward, *, error=0.1, kl_error=0.05, **others):
  """A record of the split `policy`; `others`: rewards by name."""
  found = {"step": step, "split": "policy", "kl/sequence": kl, "kl/sequence_error": kl_error, "length/policy": 20.0}
  for name, value in {"true": reward, **others}.items():
    found |= {f"reward/{name}": value, f"reward/{name}_error": error}
  return found


def sample_rows(answer, rewards, prompts=PROMPTS, kl=1.0):
  """What a look leaves of each prompt: the same answer, rewards one by one."""
  return [
    {"prompt": p, "answer": answer, "rewards": {"true": float(r)}, "kl": kl, "tokens": 5, "finished": True}
    for p, r in zip(prompts, rewards, strict=True)
  ]


def make_experiment(folder, *, betas=(0.1, 0.5, 2.0), seed=0, dots=8, answer="Dear Ada, we are sorry.", steps=40):
  """SFT, pairs, a reward model, DPO by each beta and PPO by two targets, in `folder`; returns {name: folder}."""
  random = np.random.default_rng(seed)
  made = {"sft": make_stage(folder / "sft", "sft", {"seed": seed}, metrics=train_rows(steps))}
  pairs = make_stage(
    folder / "pairs",
    "pairs",
    {"seed": seed, "model.path": "stage:sft"},
    sources={"model.path": made["sft"]},
    model=None,
  )
  rows = [{"row": i, "prompt": p, "samples": [{"text": "a", "tokens": [1, 2, 3]}] * 4} for i, p in enumerate(PROMPTS)]
  (pairs / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  made["pairs"] = pairs
  both = {"model.path": made["sft"], "data.path": pairs}
  held_out = {"held-out data": ("aa" * 32, "72 examples"), "training data": ("bb" * 32, "640 examples")}
  evaluated = {"step": steps, "split": "eval", "loss": 0.6, "rewards/accuracies": 0.7, "rewards/margins": 0.4}
  evaluated["accuracy/length_matched"] = 0.65
  paths = {"seed": seed, "model.path": "stage:sft", "data.path": "stage:pairs"}
  curves = {"rewards/accuracies": 0.6, "rewards/margins": 0.3}
  made["reward"] = make_stage(
    folder / "reward",
    "reward_model",
    paths,
    sources=both,
    metrics=[*train_rows(steps, **curves), evaluated],
    fingerprints=held_out,
  )
  for beta in betas:
    kl = 1 / beta + 0.02 * random.normal()
    reward = 3 - math.exp(-kl / 2) * 2 + 0.05 * random.normal()
    metrics = [look(0, 0.0, 0.6), *train_rows(steps, **curves), evaluated]
    metrics += [
      look(round(steps * i / dots), kl * i / dots, 0.6 + (reward - 0.6) * i / dots) for i in range(1, dots + 1)
    ]
    name = f"dpo_{beta:g}"
    made[name] = make_stage(
      folder / name,
      "preference",
      {**paths, "loss.beta": beta, "monitor.every": 5},
      sources=both,
      metrics=metrics,
      fingerprints=held_out,
      samples={steps: sample_rows(answer, random.normal(reward, 1, len(PROMPTS)))},
    )
  for target in (2.0, 4.0):
    name = f"ppo_{target:g}"
    made[name] = make_ppo(folder / name, made["sft"], made["reward"], target, seed=seed)
  return made


def make_ppo(folder, sft, reward, target, *, seed=0, rollouts=3):
  """PPO on a reward model: 2 minibatches of 4 prompts, 2 epochs, 2 samples; 60 tokens a minibatch, answers of 5 tokens."""
  values = {
    "seed": seed,
    "model.path": "stage:sft",
    "batch.size": 4,
    "rollout.samples": 2,
    "rollout.reward": "model:stage:reward",
    "policy_gradient.minibatches": 2,
    "policy_gradient.epochs": 2,
    "policy_gradient.kl_controller": "adaptive",
    "policy_gradient.kl_target": target,
    "monitor.every": 4,
    "monitor.rewards": "true, model:stage:reward",
  }
  metrics = [look(0, 0.0, 0.6, learned=0.1)]
  for i in range(rollouts):
    start = 4 * i
    metrics.append(
      {"step": start, "split": "rollout", "rollout/length": 5.0, "objective/score": 0.1 * i, "objective/kl": 0.5 * i}
    )
    metrics += [
      {"step": start + j, "split": "train", "num_tokens": 60 * (start + j), "taken": 1.0, "time/step": 0.5}
      for j in range(1, 5)
    ]
    done = (i + 1) / rollouts
    metrics.append(look(start + 4, target * done, 0.6 + 2.0 * done - 0.8 * done**2, learned=0.1 + done))
  rows = sample_rows("Hello.", np.linspace(1, 2, len(PROMPTS)))
  sources = {"model.path": sft, "rollout.reward": reward, "monitor.rewards": reward}
  return make_stage(folder, "policy_gradient", values, sources=sources, metrics=metrics, samples={4 * rollouts: rows})


def make_comparison(folder, policies, *, seed=0, answers=None):
  """A stage of recipe=comparison. `policies`: name -> (folder, label, kl, reward); the first is the reference."""
  folder.mkdir(parents=True, exist_ok=True)
  _write(folder, {"recipe": "comparison", "seed": seed}, None, (), None, True)
  splits = ["held_out", "unseen_pair"]
  listed = []
  for name, (path, label, kl, reward) in policies.items():
    of = {
      split: {
        "prompts": len(PROMPTS),
        "samples": 4,
        "kl": kl + 0.1 * i,
        "kl_error": 0.02,
        "reward/true": reward - 0.2 * i,
        "reward/true_error": 0.05,
        "reward/learned": 0.5 * reward,
        "reward/learned_error": 0.03,
        "length": 21.5,
        "finished": 1.0,
      }
      for i, split in enumerate(splits)
    }
    share = (
      {"share": 0.9, "share_low": 0.85, "share_high": 0.94, "oracle": 3.0}
      if kl
      else dict.fromkeys(("share", "share_low", "share_high", "oracle"))
    )
    listed.append(
      {
        "name": name,
        "folder": str(_relative(path, folder)),
        "recipe": "preference",
        "method": "dpo",
        "label": label,
        "step": 40,
        "splits": of,
        **share,
      }
    )
  names = list(policies)
  items = [
    {
      "name": n,
      "strength": 1.0 - i,
      "low": 0.8 - i,
      "high": 1.2 - i,
      "rank_low": i + 1,
      "rank_high": i + 2,
      "wins": 30,
      "games": 60,
      "true_rank": i + 1,
      "reward": 2.0 - i,
    }
    for i, n in enumerate(names)
  ]
  kls = np.linspace(0.1, 6, 12)
  oracle = [
    {
      "lambda": 1 / k,
      "kl": k,
      "reward": 0.6 + 1.2 * k**0.5,
      "ess": 500.0,
      "ess_a_prompt": 40.0,
      "kl_low": k - 0.1,
      "kl_high": k + 0.1,
      "reward_low": 0.5 + 1.2 * k**0.5,
      "reward_high": 0.7 + 1.2 * k**0.5,
    }
    for k in map(float, kls)
  ]
  content = {
    "reward": "true",
    "rewards": ["true", "learned"],
    "reference": names[0],
    "splits": splits,
    "policies": listed,
    "best_of_n": [
      {
        "n": n,
        "kl": math.log(n) - (n - 1) / n,
        "kl_error": 0.001,
        "reward/true": 0.6 + 0.5 * math.log(n),
        "reward/true_error": 0.02,
        "reward/learned": 0.3,
        "reward/learned_error": 0.02,
      }
      for n in (1, 2, 4, 8)
    ],
    "oracle": {"points": oracle, "cut_at": 0.7, "policies": names},
    "tournament": {"games": 60, "prompts": len(PROMPTS), "items": items},
    "samples_a_prompt": 4,
    "prompts": len(PROMPTS),
    "seed": seed,
  }
  (folder / "comparison.json").write_text(json.dumps(content))
  said = answers or {name: f"{name} says 您好 很抱歉" for name in names}
  lines = [
    {
      "split": s,
      "prompt": p,
      "answers": {n: {"text": said[n], "rewards": {"true": 1.0}, "tokens": 7, "finished": True} for n in names},
    }
    for s in splits
    for p in PROMPTS
  ]
  (folder / "answers.jsonl").write_text(
    "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
  )
  random = np.random.default_rng(seed)
  arrays = {}
  for name, (_, _, kl, reward) in policies.items():
    for split in splits:
      arrays[f"{name}/{split}/kl"] = np.full(len(PROMPTS), float(kl))
      arrays[f"{name}/{split}/reward/true"] = reward + random.normal(0, 0.1, len(PROMPTS))
  np.savez(folder / "scores.npz", **arrays)
  return folder
