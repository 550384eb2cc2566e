"""From rows of text to packed batches: source -> format -> template -> tokens -> packed rows. NumPy only."""

from dpojax.data.batches import Batches, Fill, prefetch
from dpojax.data.dataset import dataset_from_rows, encode_prompts, hold_out, load_dataset
from dpojax.data.examples import TokenDataset, TokenExample
from dpojax.data.packing import PackShape, pack
from dpojax.data.shapes import choose_shape

__all__ = [
  "Batches",
  "Fill",
  "PackShape",
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
