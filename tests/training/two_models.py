"""Run in a process of its own with eight host devices: a policy and a reward model in one state, by an optax chain.

Prints JSON: for each layout the largest differences to one device after three steps; what lies where; and whether a
checkpoint goes on bit for bit on all devices.
"""

import dataclasses
import json
import tempfile

import jax
import numpy as np
import optax

from dpojax.config.schema import CheckpointSettings, ParallelSettings
from dpojax.models.reward_model import RewardModel
from dpojax.objectives import Objective
from dpojax.objectives.reward_model import RewardObjective
from dpojax.objectives.sft import Sft
from dpojax.parallel import make_mesh
from dpojax.training.checkpoint import Checkpointer
from dpojax.training.trainer import Trainer
from tests.training.tiny import MODEL, tiny_batches, train

LAYOUTS = {"data 2 x fsdp 2 x tensor 2": dict(data=2, fsdp=2, tensor=2)}


@dataclasses.dataclass(frozen=True)
class Both(Objective):
  """A language model fine-tuned and a reward model fitted, each on the same rows."""

  language: Sft = Sft(MODEL)
  reward: RewardObjective = RewardObjective(RewardModel(MODEL))

  @property
  def parts(self):
    return {"policy": self.language, "critic": self.reward}

  def policy(self, params):
    return params["policy"]

  @property
  def parameters(self):
    return {name: part.parameters for name, part in self.parts.items()}

  def normalizers(self, batch):
    return {name: part.normalizers(batch) for name, part in self.parts.items()}

  def forward(self, params, reference_params, rows):
    return {name: part.forward(params[name], reference_params, rows) for name, part in self.parts.items()}

  def loss(self, outputs, rows, normalizers, hyper):
    found = {name: part.loss(outputs[name], rows, normalizers[name], hyper) for name, part in self.parts.items()}
    return sum(loss for loss, _ in found.values()), {f"{n}/loss": m["loss"] for n, (_, m) in found.items()}


def trainer(**axes):
  params = {name: part.model.init(jax.random.key(0)) for name, part in Both().parts.items()}
  devices = jax.devices()[: int(np.prod(list(axes.values())))]
  mesh = make_mesh(ParallelSettings(**axes), devices)
  return Trainer(Both(), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)), params, mesh=mesh)


def norm(tree):
  return np.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(tree)))


def main():
  batches = tiny_batches(rows=4)
  alone = trainer(data=1)
  begun = jax.device_get(alone.params)
  expected = [metrics for _, metrics in train(alone, batches, 3)]
  moved = jax.tree.map(np.subtract, jax.device_get(alone.params), begun)
  results = {"moved": {name: norm(tree) for name, tree in moved.items()}}
  for layout, axes in LAYOUTS.items():
    one = trainer(**axes)
    found = [metrics for _, metrics in train(one, batches, 3)]
    apart = jax.tree.map(np.subtract, jax.device_get(one.params), jax.device_get(alone.params))
    results[layout] = {
      "loss": max(abs(a[name] - b[name]) for a, b in zip(found, expected, strict=True) for name in a if "loss" in name),
      "parameters": norm(apart) / norm(moved),
      "spec": {
        jax.tree_util.keystr(p): list(x.sharding.spec) for p, x in jax.tree_util.tree_leaves_with_path(one.state)
      },
    }
  again = trainer(**LAYOUTS["data 2 x fsdp 2 x tensor 2"])
  with tempfile.TemporaryDirectory() as folder, Checkpointer(folder, CheckpointSettings()) as checkpointer:
    checkpointer.save(3, one.state)
    checkpointer.wait()
    _, again.state = checkpointer.restore(again.abstract_state)
  for each in (one, again):
    train(each, batches, 2)
  pairs = zip(*map(jax.tree.leaves, (one.state, again.state)), strict=True)
  results["resumed"] = all(np.array_equal(a, b) and a.sharding == b.sharding for a, b in pairs)
  print(json.dumps(results, indent=1))


if __name__ == "__main__":
  main()
