"""What is declared of parameters: the draw, names outside, layout on devices."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from dpojax.errors import ConfigError
from dpojax.models.config import ModelConfig
from dpojax.models.families import FAMILIES
from dpojax.models.language_model import LanguageModel
from dpojax.models.parameters import decoder_parameters
from dpojax.models.reward_model import RewardModel
from dpojax.parallel import state_shardings
from dpojax.types import Parameter

CONFIG = ModelConfig(
  vocab_size=12,
  hidden=8,
  layers=2,
  heads=4,
  kv_heads=2,
  ffn=6,
  max_positions=16,
  tie_embeddings=False,
  attention_bias=True,
  mlp_bias=True,
)

# The first and the last number of each random parameter of `LanguageModel(CONFIG).init(key(5))`, by Flax's modules before
# parameters were declared in a table.
DRAWN = {
  "embed": (0.008305653, 0.0027441459),
  "head": (-0.011557526, -0.00063994474),
  "layers/down": (0.12030238, -0.081517845),
  "layers/gate": (-0.32075956, -0.33835468),
  "layers/key": (0.60448086, -0.20328765),
  "layers/output": (0.15945847, 0.043094859),
  "layers/query": (-0.48785773, 0.1175197),
  "layers/up": (0.1867203, 0.32499033),
  "layers/value": (-0.42965764, 0.088049456),
}
SCORE = (-0.45995671, -0.065041602)


def leaves(tree):
  return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_the_draw_is_what_it_always_was(tied):
  config = dataclasses.replace(CONFIG, tie_embeddings=tied)
  drawn = leaves(LanguageModel(config).init(jax.random.key(5)))
  assert set(drawn) == set(leaves(decoder_parameters(config)))
  for name, value in drawn.items():
    assert value.dtype == np.float32
    if name in DRAWN:
      np.testing.assert_allclose(np.ravel(value)[[0, -1]], DRAWN[name], rtol=1e-6, err_msg=name)
    else:
      np.testing.assert_array_equal(value, np.full(value.shape, float(name.endswith("norm"))))
  assert set(DRAWN) - set(drawn) == ({"head"} if tied else set())


@pytest.mark.slow
def test_a_reward_head_is_drawn_as_ever():
  params = RewardModel(LanguageModel(CONFIG), 3).init(jax.random.key(5))
  np.testing.assert_allclose(np.ravel(params["score"])[[0, -1]], SCORE, rtol=1e-6)
  assert "head" not in params


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_parameter_has_a_name_outside(family):
  assert set(FAMILIES[family].tensors) == set(leaves(decoder_parameters(CONFIG)))


def mesh(**axes):
  sizes = dict(data=1, fsdp=1, tensor=1) | axes
  return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def specs(state, declared, **axes):
  return {name: s.spec for name, s in leaves(state_shardings(mesh(**axes), state, declared)).items()}


def test_moments_lie_as_their_parameters_and_all_else_everywhere():
  import optax

  model = LanguageModel(CONFIG)
  declared = {"policy": model.parameters, "critic": RewardModel(model).parameters}
  params = {"policy": model, "critic": RewardModel(model)}
  params = jax.eval_shape(lambda: {name: m.init(jax.random.key(0)) for name, m in params.items()})
  layout = specs(params, declared, fsdp=2, tensor=2)
  assert layout["policy/layers/query"] == PartitionSpec(None, "fsdp", "tensor")
  assert layout["critic/embed"] == PartitionSpec("tensor", "fsdp")
  assert layout["policy/final_norm"] == layout["critic/score"] == PartitionSpec()
  state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)).init, params)
  for name, spec in specs(state, declared, fsdp=2, tensor=2).items():
    own = name.split("/", 3)[-1] if "/mu/" in name or "/nu/" in name else ""
    assert spec == layout.get(own, PartitionSpec()), name
  factored = specs(jax.eval_shape(optax.adafactor(0.1, min_dim_size_to_factor=4).init, params), declared, fsdp=2)
  assert {spec for name, spec in factored.items() if "v_row" in name or "v_col" in name} == {PartitionSpec()}
  # The reference of one of them alone.
  alone = specs(params["policy"], declared, fsdp=2, tensor=2)
  assert alone == {name.removeprefix("policy/"): s for name, s in layout.items() if name.startswith("policy/")}
  assert set(specs(params, {}, fsdp=2).values()) == {PartitionSpec()}


def test_what_two_declare_in_different_ways_is_held_by_all():
  declared = {"a": {"w": Parameter((4, 4), ("model", None))}, "b": {"w": Parameter((4, 4), (None, "model"))}}
  assert specs({"w": jax.ShapeDtypeStruct((4, 4), "float32")}, declared, fsdp=2) == {"w": PartitionSpec()}


def test_the_longest_path_and_the_very_shape_decide():
  declared = {"w": Parameter((4, 4), ("model", None)), "layers": {"w": Parameter((4, 4), (None, "model"))}}
  state = {
    "mu": {"w": jax.ShapeDtypeStruct((4, 4), "float32"), "layers": {"w": jax.ShapeDtypeStruct((4, 4), "float32")}}
  }
  assert specs(state, declared, fsdp=2) == {
    "mu/w": PartitionSpec("fsdp", None),
    "mu/layers/w": PartitionSpec(None, "fsdp"),
  }
  state = {"mu": {"w": jax.ShapeDtypeStruct((4, 3), "float32")}}
  assert specs(state, declared, fsdp=2) == {"mu/w": PartitionSpec()}


def test_devices_that_do_not_divide_a_dimension_are_named():
  model = LanguageModel(CONFIG)
  params = jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(ConfigError, match=r"parallel.tensor: 4 devices do not divide the feed_forward dimension \(6\)"):
    state_shardings(mesh(tensor=4), params, model.parameters)
