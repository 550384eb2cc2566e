"""Configs in and out, and what is refused by name."""

import json
from pathlib import Path

import jax
import pytest

from dpojax.errors import WeightsError
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.ops.rotary import RopeScaling

GOLDENS = Path(__file__).parents[1] / "oracles" / "goldens" / "models"

# As published: config.json of TinyLlama-1.1B-Chat-v1.0, Llama-3.2-1B and Mistral-7B-v0.1, keys that matter.
TINYLLAMA = json.loads("""{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1,
 "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
 "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
 "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
 "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32000}""")
LLAMA3 = json.loads("""{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
 "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
 "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
 "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
 "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
 "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
 "tie_word_embeddings": true, "vocab_size": 128256}""")
MISTRAL = json.loads("""{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
 "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
 "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
 "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false,
 "vocab_size": 32000}""")


def test_published_configs_are_read():
  tiny, llama3, mistral = map(ModelConfig.from_transformers, (TINYLLAMA, LLAMA3, MISTRAL))
  assert (tiny.head_dim, tiny.kv_heads, tiny.tie_embeddings, tiny.eos_ids) == (64, 4, False, (2,))
  assert llama3.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
  assert (llama3.tie_embeddings, llama3.eos_ids, llama3.rope_theta) == (True, (128001, 128008, 128009), 5e5)
  assert (mistral.window, mistral.head_dim, mistral.max_positions) == (4096, 128, 32768)
  assert ModelConfig.from_transformers({**MISTRAL, "sliding_window": None}).window is None


@pytest.mark.parametrize(
  ("source", "billions"),
  [(TINYLLAMA, 1.100), (LLAMA3, 1.236), (MISTRAL, 7.242)],
  ids=["tinyllama", "llama3", "mistral"],
)
def test_parameter_counts_are_the_published_ones(source, billions):
  shapes = jax.eval_shape(LanguageModel(ModelConfig.from_transformers(source)).init, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e9 == pytest.approx(billions, abs=5e-4)


@pytest.mark.parametrize("folder", sorted(GOLDENS.iterdir()), ids=lambda folder: folder.name)
def test_config_survives_export_and_json(folder):
  config = ModelConfig.from_transformers(json.loads((folder / "config.json").read_text()))
  assert ModelConfig.from_transformers(json.loads(json.dumps(config.to_transformers()))) == config
  assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
  before_five = {k: v for k, v in config.to_transformers().items() if k != "rope_parameters"}
  assert ModelConfig.from_transformers(before_five) == config


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(model_type="gpt2"), "model_type is 'gpt2'; supported: llama, mistral"),
    (dict(model_type=None), "model_type is None"),
    (dict(architectures=["LlamaForTokenClassification"]), "supported for llama: LlamaForCausalLM, LlamaForSeq"),
    (dict(hidden_act="gelu"), "hidden_act is 'gelu'; supported: 'silu'"),
    (dict(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_scaling.rope_type is 'yarn'; supported: default"),
    (dict(rope_scaling={"type": "dynamic", "factor": 4.0}), "'dynamic'"),
    (dict(rope_scaling={"rope_type": "linear"}), "rope_scaling.factor is missing"),
    (dict(rope_parameters={"rope_type": "longrope"}), "rope_parameters.rope_type is 'longrope'"),
    (dict(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
    (dict(rope_scaling="linear"), "rope_scaling is 'linear'; it must be an object"),
    (dict(quantization_config={"bits": 4}), "quantization_config"),
    (dict(partial_rotary_factor=0.5), "json: partial_rotary_factor is 0.5; supported: 1"),
    (dict(logit_scale=0.1), "logit_scale is 0.1"),
    (dict(no_rope_layers=[1, 0]), "no_rope_layers is"),
    (dict(rope_parameters={"full_attention": {"rope_theta": 1e6}}), "rope_parameters.full_attention is an object"),
    (dict(rope_scaling={"factor": 4.0}), "rope_scaling.factor is 4.0; supported: 1"),
    (dict(layer_types=["full_attention", "sliding_attention"]), r"layer_types\[1\] is 'sliding_attention'"),
    (dict(hidden_size=None), "hidden_size is missing; it must be a whole number"),
    (dict(vocab_size="many"), "vocab_size is 'many'"),
    (dict(rms_norm_eps=0), "rms_norm_eps is 0"),
    (dict(num_key_value_heads=5), "heads 32 is not a multiple of kv_heads 5"),
    (dict(head_dim=63), "head_dim 63 must be even"),
    (dict(model_type=["llama"]), r"model_type is \['llama'\]"),
    (dict(architectures="LlamaForCausalLM"), "architectures is 'LlamaForCausalLM'"),
    (dict(architectures=[{}]), "architectures is"),
    (dict(layer_types=7), "layer_types is 7; it must be a list"),
    (dict(num_attention_heads=0), "num_attention_heads is 0; it must be a whole number from 1"),
    (dict(num_key_value_heads=0), "num_key_value_heads is 0"),
    (dict(hidden_size=True), "hidden_size is True"),
    (dict(hidden_size=2048.0), "hidden_size is 2048.0"),
    (dict(vocab_size=2**31), "vocab_size is 2147483648; it must be a whole number from 1 to"),
    (dict(vocab_size=[32000]), r"vocab_size is \[32000\]"),
    (dict(rms_norm_eps=float("inf")), "rms_norm_eps is inf"),
    (dict(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    (dict(rms_norm_eps=2.0), "at most 1"),
    (dict(rope_theta="10000"), "rope_theta is '10000'"),
    (dict(rope_theta=float("inf")), "rope_theta is inf"),
    (dict(tie_word_embeddings="false"), "tie_word_embeddings is 'false'; it must be true or false"),
    (dict(attention_bias=1), "attention_bias is 1"),
    (dict(bos_token_id="<s>"), "bos_token_id is '<s>'"),
    (dict(eos_token_id=-1), r"eos_token_id\[0\] is -1"),
    (dict(eos_token_id=[2, None]), r"eos_token_id\[1\] is missing"),
    (dict(eos_token_id={"a": 2}), r"eos_token_id\[0\] is"),
    (dict(pad_token_id=2.5), "pad_token_id is 2.5"),
    (dict(pad_token_id=-2), "pad_token_id is -2"),
    (dict(rope_scaling={"rope_type": ["llama3"]}), r"rope_type is \['llama3'\]"),
    (dict(rope_scaling={"rope_type": "linear", "factor": float("nan")}), "rope_scaling.factor is nan"),
    (
      dict(rope_scaling=LLAMA3["rope_scaling"] | {"low_freq_factor": 4.0}),
      "low_freq_factor is 4; it must be below high_freq_factor, 4",
    ),
    (dict(rope_parameters={"rope_theta": 5e5}), "rope_parameters.rope_theta says 500000.0 and rope_theta says 10000.0"),
    (
      dict(rope_parameters={"rope_theta": 1e4, "rope_type": "default"}, rope_scaling={"type": "linear", "factor": 2.0}),
      "rope_parameters says None and rope_scaling says RopeScaling",
    ),
  ],
)
def test_what_is_not_supported_is_named(change, message):
  with pytest.raises(WeightsError, match=message):
    ModelConfig.from_transformers({**TINYLLAMA, **change})


@pytest.mark.parametrize(
  "change",
  [
    dict(rope_parameters={"rope_type": "default"}, rope_theta=5e5),
    dict(rope_parameters={"rope_theta": 5e5}, rope_theta=None),
    dict(rope_parameters={"rope_theta": 5e5}, rope_theta=5e5, rope_scaling=None),
    dict(rope_scaling={"type": "default"}, rope_theta=5e5),
    dict(rope_parameters={}, rope_theta=5e5),
  ],
)
def test_theta_is_found_wherever_it_stands(change):
  """As transformers 5 fills in what `rope_parameters` lacks from the top."""
  assert ModelConfig.from_transformers({**TINYLLAMA, **change}).rope_theta == 5e5
