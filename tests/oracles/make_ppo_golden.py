"""Advantages, losses and KL coefficients that OpenRLHF's own functions make of a made-up roll-out.

    python -m venv peer && peer/bin/pip install torch==2.13.0 numpy && peer/bin/pip install --no-deps openrlhf==0.11.2
    peer/bin/python tests/oracles/make_ppo_golden.py

Its modules of numbers import ray, deepspeed and transformers, which these functions do not use: empty modules stand in, and
its packages are entered without their `__init__`.
"""

import importlib
import importlib.machinery
import importlib.metadata
import json
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
import torch

OUT = Path(__file__).parent / "goldens" / "ppo.json"
PACKAGES = ("", ".models", ".trainer", ".trainer.ppo_utils", ".utils")
ABSENT = ("ray", "deepspeed", "transformers", "openrlhf.trainer.ray", "openrlhf.trainer.ray.launcher")
PROMPTS, SAMPLES, TOKENS = 3, 4, 6
COEF = 0.1


class Stub(types.ModuleType):
  """Has every attribute."""

  __path__: tuple[str, ...] = ()

  def __getattr__(self, name: str):
    if name.startswith("__"):
      raise AttributeError(name)
    return mock.MagicMock()


def enter() -> None:
  """Makes the package's modules importable without what they are imported beside."""
  root = Path(str(importlib.metadata.distribution("openrlhf").locate_file("openrlhf")))
  for name in ABSENT:
    sys.modules[name] = Stub(name)
    sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
  for name in PACKAGES:
    package = types.ModuleType(f"openrlhf{name}")
    package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules[package.__name__] = package


def draw() -> dict:
  """Lists by answer, ragged lists by answer and token; few digits, so that the file is the roll-out exactly."""
  random = np.random.default_rng(20261126)
  length = random.integers(1, TOKENS + 1, PROMPTS * SAMPLES)
  length[0], length[1] = 1, TOKENS
  ragged = lambda scale, mean=0.0: [random.normal(mean, scale, n).round(3).tolist() for n in length]  # noqa: E731
  behaviour = ragged(0.8, -2.0)
  moved = lambda scale: [  # noqa: E731
    (np.array(one) + random.normal(0, scale, len(one))).round(3).tolist() for one in behaviour
  ]
  return {
    "length": length.tolist(),
    "scores": random.normal(0, 1, len(length)).round(3).tolist(),
    "behaviour_logp": behaviour,
    "reference_logp": moved(0.5),
    "logp": moved(0.4),
    "values": ragged(0.7),
    "new_values": ragged(0.7),
    "advantages": ragged(1.0),
    "value_targets": ragged(1.0),
  }


def padded(ragged: list[list[float]]) -> torch.Tensor:
  """f64[A, T], 0 behind an answer's end."""
  found = torch.zeros(len(ragged), TOKENS, dtype=torch.float64)
  for row, one in zip(found, ragged, strict=True):
    row[: len(one)] = torch.tensor(one, dtype=torch.float64)
  return found


def estimated(data: dict, estimator: str, coef: float, gamma: float = 1.0, lam: float = 0.95) -> dict:
  """Advantages and returns as its experience maker gives them for a whole batch."""
  from openrlhf.trainer.ppo_utils.experience import Experience
  from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
  from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController

  space = types.SimpleNamespace
  args = space(
    algo=space(advantage=space(estimator=estimator, gamma=gamma, lambd=lam, no_std_norm=False)),
    rollout=space(n_samples_per_prompt=SAMPLES),
    reward=space(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None),
  )
  maker = RemoteExperienceMaker(None, None, None, None, FixedKLController(coef), space(args=args), None)
  experience = Experience(
    action_mask=padded([[1.0] * n for n in data["length"]]).bool(),
    values=padded(data["values"]),
    kl=padded(data["behaviour_logp"]) - padded(data["reference_logp"]),
    rewards=torch.tensor(data["scores"], dtype=torch.float64),
    index=list(range(len(data["length"]))),
  )
  (found,) = maker.compute_advantages_and_returns([experience])
  facts = {"estimator": estimator, "kl_coef": coef, "gamma": gamma, "lam": lam}
  return facts | {"advantages": cut(found.advantages, data), "returns": cut(found.returns, data)}


def plain_gae(data: dict, gamma: float, lam: float) -> dict:
  """Its GAE before it whitens, of rewards with the KL in them."""
  from openrlhf.models.utils import compute_approx_kl, compute_reward
  from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

  mask = padded([[1.0] * n for n in data["length"]])
  kl = compute_approx_kl(padded(data["behaviour_logp"]), padded(data["reference_logp"]))
  scores = torch.tensor(data["scores"], dtype=torch.float64)
  rewards = compute_reward(scores, COEF, kl.double(), action_mask=mask)
  make = RemoteExperienceMaker.get_advantages_and_returns
  advantages, returns = make(None, padded(data["values"]), rewards, mask, gamma, lam)
  return {
    "gamma": gamma,
    "lam": lam,
    "kl_coef": COEF,
    "rewards": cut(rewards, data),
    "advantages": cut(advantages, data),
    "returns": cut(returns, data),
  }


def policy_loss(data: dict, *, token_level: bool, dual_clip: float | None, clip: float = 0.2) -> dict:
  from openrlhf.models.loss import PolicyLoss

  logp = padded(data["logp"]).requires_grad_()
  mask = padded([[1.0] * n for n in data["length"]])
  loss = PolicyLoss(clip, clip, dual_clip=dual_clip, token_level_loss=token_level)
  value, clipped, kl, _, _ = loss(logp, padded(data["behaviour_logp"]), padded(data["advantages"]), mask)
  value.backward()
  return {
    "token_level": token_level,
    "dual_clip": dual_clip,
    "clip": clip,
    "loss": value.item(),
    "clip_ratio": clipped.item(),
    "ppo_kl": kl.item(),
    "gradient": cut(logp.grad, data),
  }


def value_loss(data: dict, clip: float) -> dict:
  from openrlhf.models.loss import ValueLoss

  values = padded(data["new_values"]).requires_grad_()
  mask = padded([[1.0] * n for n in data["length"]])
  loss = ValueLoss(clip)(values, padded(data["values"]), padded(data["value_targets"]), mask)
  loss.backward()
  return {"clip": clip, "loss": loss.item(), "gradient": cut(values.grad, data)}


def estimates(data: dict) -> dict:
  from openrlhf.models.utils import compute_approx_kl

  found = {}
  for name in ("k1", "k3"):
    given = padded(data["behaviour_logp"]).requires_grad_(), padded(data["reference_logp"])
    kl = compute_approx_kl(*given, kl_estimator=name)
    kl.sum().backward()
    found[name] = {"values": cut(kl, data), "gradient": cut(given[0].grad, data)}
  return found


def controlled() -> list[dict]:
  from openrlhf.trainer.ppo_utils.kl_controller import AdaptiveKLController

  rows = []
  for target, horizon in ((6.0, 10_000), (2.0, 500)):
    controller = AdaptiveKLController(COEF, target, horizon)
    for kl, episodes in ((6.5, 512), (60.0, 512), (0.3, 256), (-1.0, 256), (2.1, 128)):
      before = controller.value
      controller.update(kl, episodes)
      rows.append(
        dict(coef=before, kl=kl, target=target, episodes=episodes, horizon=horizon, following=float(controller.value))
      )
  return rows


def cut(values: torch.Tensor, data: dict) -> list[list[float]]:
  """Ragged again, 10 digits of what float32 or float64 gave."""
  rows = values.detach().double().tolist()
  return [[float(f"{x:.10g}") for x in row[:n]] for row, n in zip(rows, data["length"], strict=True)]


def main() -> None:
  enter()
  data = draw()
  made = {
    "made_by": "tests/oracles/make_ppo_golden.py",
    "versions": {name: importlib.metadata.version(name) for name in ("openrlhf", "torch", "numpy")},
    "samples": SAMPLES,
    "data": data,
    "gae": [plain_gae(data, *both) for both in ((1.0, 0.95), (0.9, 0.8), (1.0, 1.0))],
    "estimators": [
      *(estimated(data, name, 0.0) for name in ("gae", "reinforce", "rloo", "dr_grpo", "group_norm")),
      *(estimated(data, name, COEF) for name in ("gae", "rloo")),
    ],
    "policy_loss": [policy_loss(data, token_level=t, dual_clip=d) for t in (True, False) for d in (None, 1.5)],
    "value_loss": [value_loss(data, clip) for clip in (0.2, 0.5)],
    "kl": estimates(data),
    "controller": controlled(),
  }
  OUT.write_text(json.dumps(made, separators=(",", ":")) + "\n")


if __name__ == "__main__":
  main()
