"""What the exactness parts share: models and rows of two sizes, the two devices, and figures that must hold."""

import dataclasses
import math

import jax
import numpy as np

from benchmarks.gpu.rows import read_rows
from benchmarks.kernels import SMOLLM2
from dpojax.config.schema import BatchSettings, OptimizerSettings, ParallelSettings
from dpojax.data.batches import Batches
from dpojax.data.examples import TokenDataset
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.objectives.preference import Preference
from dpojax.parallel import batch_shardings, make_mesh
from dpojax.training.optimizer import make_optimizer
from dpojax.training.trainer import Trainer

SIZES = {  # what the parts compute with: SmolLM2's blocks, four of them, or next to nothing
  "small": dataclasses.replace(SMOLLM2, layers=4),
  "tiny": ModelConfig(vocab_size=64, hidden=32, layers=2, heads=2, kv_heads=1, ffn=48),
}


class CheckError(AssertionError):
  """A figure is not what it should be; the text holds it."""


def require(holds: bool, text: str) -> str:
  """The text, where it holds."""
  if not holds:
    raise CheckError(text)
  return text


def within(what: str, found: float, allowed: float) -> str:
  return require(bool(found <= allowed), f"{what} {found:.2g} (at most {allowed:.2g})")


def gpu() -> jax.Device:
  """The first GPU; without one the processor."""
  try:
    return jax.devices("gpu")[0]
  except RuntimeError:
    return jax.devices("cpu")[0]


def cpu() -> jax.Device:
  return jax.devices("cpu")[0]


def norm(tree) -> float:
  return math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(jax.device_get(tree))))


def apart(found, expected) -> float:
  """The difference of two trees beside the second, normwise."""
  found, expected = jax.device_get((found, expected))
  return norm(jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), found, expected)) / norm(
    expected
  )


@dataclasses.dataclass(frozen=True)
class Setting:
  """A model, rows for it, and how they are packed."""

  config: ModelConfig
  dataset: TokenDataset
  row_length: int

  @classmethod
  def of(cls, size: str, pairs: int) -> "Setting":
    config = SIZES[size]
    tiny = size == "tiny"
    dataset = read_rows(pairs, vocabulary=config.vocab_size, longest=24 if tiny else None)
    return cls(config, dataset, 128 if tiny else 1024)

  def model(self, precision: str = "float32") -> LanguageModel:
    return LanguageModel(self.config, precision=precision, remat="dots")

  def params(self, seed: int = 0):
    with jax.default_device(cpu()):
      return self.model().init(jax.random.key(seed))

  def batches(self, size: int) -> Batches:
    return Batches(self.dataset, BatchSettings(size=size, rows=2, row_length=self.row_length))

  def trainer(self, device, precision="float32", live=True) -> Trainer:
    settings = OptimizerSettings(learning_rate=1e-4, warmup_steps=0, schedule="constant")
    params = jax.device_put(self.params(), device)
    return Trainer(
      Preference(self.model(precision)),
      make_optimizer(settings, 20),
      params,
      reference_params=params if live else None,
      hyper={"beta": 0.1, "label_smoothing": 0.0},
      mesh=mesh_on(device),
    )


def mesh_on(device):
  return make_mesh(ParallelSettings(data=1), [device])


def placed(batch, device):
  return jax.device_put(batch, batch_shardings(mesh_on(device), batch))
