"""What a decoder is: its sizes and the options by which families differ."""

import dataclasses
from typing import Any

from dpojax.errors import WeightsError
from dpojax.models.families import FAMILIES, family_of
from dpojax.ops.rotary import RopeScaling


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and options of a decoder; hashable, so that compiled functions may close over it.

  Attributes:
    vocab_size: rows of the embedding.
    hidden: width of the residual stream.
    layers: blocks.
    heads: query heads.
    kv_heads: key and value heads, a divisor of `heads`.
    ffn: width of the gated feed-forward part.
    head_dim: width of a head; 0 becomes hidden / heads.
    family: name in `dpojax.models.families`: how weights and config are named outside.
    norm_epsilon: added to the mean square in RMSNorm.
    max_positions: positions the model was made for; the largest `position` must stay below.
    rope_theta: base wavelength of the rotary embedding.
    rope_scaling: rule that stretches it, or None.
    window: a token sees only keys less than this many positions before it, or None.
    tie_embeddings: the head is the embedding.
    attention_bias: query, key, value and output products have a bias.
    mlp_bias: gate, up and down products have a bias.
    bos_id, eos_ids, pad_id: special tokens that the model's config names; eos_ids may be empty.
  """

  vocab_size: int
  hidden: int
  layers: int
  heads: int
  kv_heads: int
  ffn: int
  head_dim: int = 0
  family: str = "llama"
  norm_epsilon: float = 1e-5
  max_positions: int = 2048
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | None = None
  window: int | None = None
  tie_embeddings: bool = True
  attention_bias: bool = False
  mlp_bias: bool = False
  bos_id: int | None = None
  eos_ids: tuple[int, ...] = ()
  pad_id: int | None = None

  def __post_init__(self):
    if self.head_dim == 0:
      if self.hidden % self.heads:
        raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}; give head_dim")
      object.__setattr__(self, "head_dim", self.hidden // self.heads)
    if self.head_dim % 2:
      raise ValueError(f"head_dim {self.head_dim} must be even for the rotary embedding")
    if self.heads % self.kv_heads:
      raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")

  @classmethod
  def from_transformers(cls, config: dict[str, Any]) -> "ModelConfig":
    """Reads the dict of a transformers `config.json`.

    Raises:
      WeightsError: unknown architecture or unsupported option; names the key and what is supported.
    """
    try:
      return cls(**family_of(config).read(config))
    except WeightsError:
      raise
    except ValueError as error:
      raise WeightsError(f"config.json: {error}") from error

  def to_transformers(self) -> dict[str, Any]:
    """The dict of a `config.json` that transformers loads to the same model."""
    return FAMILIES[self.family].write(self)

  def to_dict(self) -> dict[str, Any]:
    """Plain JSON form, for a run's `model.json`."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: dict[str, Any]) -> "ModelConfig":
    """Inverse of `to_dict`, also after a passage through JSON."""
    scaling = fields.get("rope_scaling")
    scaling = RopeScaling(**scaling) if isinstance(scaling, dict) else scaling
    return cls(**{**fields, "rope_scaling": scaling, "eos_ids": tuple(fields.get("eos_ids", ()))})
