"""Run in a process of its own with eight host devices: everything that scores, on one device and on meshes of eight.

Prints JSON: for every mesh and kind of score the largest difference to one device, in nats (rewards: log-odds), how
sampling in float64 differs, and what is said of too few rows.
"""

import json
import tempfile

import jax
import numpy as np

from dpojax.config.schema import BatchSettings, ParallelSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.errors import ConfigError
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.reward_model import RewardModel
from dpojax.parallel import make_mesh
from dpojax.references import Cached
from dpojax.rollout.sampler import Sample, generate
from dpojax.scoring import measure_divergence, reward_scores, score_answers, score_tokens

CONFIG = ModelConfig(vocab_size=40, hidden=32, layers=2, heads=4, kv_heads=2, ffn=64, max_positions=64, eos_ids=(0,))
MESHES = {
  "data 8": dict(data=8),
  "fsdp 8": dict(data=1, fsdp=8),
  "data 2 x fsdp 2 x tensor 2": dict(data=2, fsdp=2, tensor=2),
}


def make_dataset() -> TokenDataset:
  draws = np.random.default_rng(0)
  ids = lambda longest: draws.integers(1, 40, draws.integers(1, longest))  # noqa: E731
  return TokenDataset.from_examples([(ids(12), [ids(12) for _ in range(1 + i % 3)]) for i in range(37)])


def compare_samples(model: LanguageModel, prompts: list[np.ndarray]) -> dict:
  """mesh -> [answers of which a token or the end differs, largest difference of a log-prob], among 37 x 3 answers."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(model.init(jax.random.key(3))))
  params["embed"] = params["embed"] * 20  # far from uniform

  def written(mesh):
    options = dict(samples=3, max_tokens=24, eos_id=[0, 7], top_k=30, top_p=0.95, rows=60)
    return [sample for each in generate(model, params, prompts, mesh=mesh, **options) for sample in each]

  one, found = written(None), {}
  for name, axes in MESHES.items():
    pairs = list(zip(written(make_mesh(ParallelSettings(**axes))), one, strict=True))
    others = sum(a.tokens.tolist() != b.tokens.tolist() or a.ended != b.ended for a, b in pairs)
    found[name] = [others, max(float(np.max(np.abs(a.logp - b.logp))) for a, b in pairs) if not others else -1.0]
  return found


def main():
  dataset = make_dataset()
  model = LanguageModel(CONFIG)
  reward_model = RewardModel(model, heads=2)
  params, other = (jax.device_get(model.init(jax.random.key(seed))) for seed in (0, 1))
  reward_params = jax.device_get(reward_model.init(jax.random.key(2)))
  prompts = [dataset[i].prompt for i in range(len(dataset))]
  samples = [Sample(dataset[i].answers[0], "eos", np.zeros(0)) for i in range(len(dataset))]

  batches = Batches(dataset, BatchSettings(size=16, rows=8, row_length=64))

  def cached(mesh):
    """Of a reference whose log-probs are computed on the mesh."""
    with tempfile.TemporaryDirectory() as folder:
      reference = Cached(model, lambda: params, folder, mesh=mesh, precision="float32", say=lambda text: None)
      return np.concatenate([batch.reference_logp.ravel() for batch in reference.attach(batches).in_order()])

  def scored(mesh):
    shape = dict(rows=8, row_length=64, mesh=mesh)
    return {
      "answers": np.concatenate([score.logps for score in score_answers(model, params, dataset, **shape)]),
      "tokens": np.concatenate([v for vectors in score_tokens(model, params, dataset, **shape) for v in vectors]),
      "rewards": np.concatenate([r.ravel() for r in reward_scores(reward_model, reward_params, dataset, **shape)]),
      "kl": measure_divergence(model, params, other, prompts, samples, **shape).kl,
      "cached": cached(mesh),
    }

  one = scored(None)
  worst = {}
  for name, axes in MESHES.items():
    found = scored(make_mesh(ParallelSettings(**axes)))
    worst[name] = {kind: float(np.max(np.abs(found[kind] - one[kind]))) for kind in one}
  with jax.enable_x64(True):
    sampled = compare_samples(model, prompts)
  try:
    score_answers(model, params, dataset, rows=2, mesh=make_mesh(ParallelSettings()))
    error = ""
  except ConfigError as refused:
    error = str(refused)
  print(json.dumps({"worst": worst, "sampled": sampled, "two rows": error}))


if __name__ == "__main__":
  main()
