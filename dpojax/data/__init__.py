"""From rows of text to packed batches: source -> format -> template -> tokens -> packed rows. NumPy only."""

from dpojax.data.batch_shape import choose_shape
from dpojax.data.batches import Batches, Fill, prefetch
from dpojax.data.dataset import dataset_from_rows, encode_prompts, hold_out, load_dataset
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import BatchShape, pack

__all__ = [
  "BatchShape",
  "Batches",
  "Fill",
  "TokenDataset",
  "TokenExample",
  "choose_shape",
  "dataset_from_rows",
  "encode_prompts",
  "hold_out",
  "load_dataset",
  "pack",
  "prefetch",
]

PackShape = BatchShape  # its earlier name
