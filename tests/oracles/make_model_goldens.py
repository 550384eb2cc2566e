"""Golden logits of tiny random models, saved and computed by transformers in float32.

python tests/oracles/make_model_goldens.py       (needs torch and transformers; the tests need neither)

Writes tests/oracles/goldens/models/NAME/: the folder as `save_pretrained` leaves it, and logits.npz with
`tokens` i32[3, 24], `logits` f32[3, 24, V] and `versions`. The rows are longer than Mistral's window and
than the context that Llama 3's rope scaling starts from, so that a model without them fails.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

GOLDENS = Path(__file__).parent / "goldens" / "models"
SIZES = dict(
  vocab_size=40,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,  # not hidden / heads
  max_position_embeddings=64,
  bos_token_id=1,
  eos_token_id=2,
  attn_implementation="eager",
)
LLAMA3 = dict(
  rope_type="llama3",
  rope_theta=10_000.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)
LINEAR = dict(rope_type="linear", rope_theta=500.0, factor=2.0)

MODELS = {
  "llama3_untied_bias_sharded": (
    LlamaForCausalLM,
    LlamaConfig(rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, **SIZES),
    dict(max_shard_size="12KB"),
  ),
  "mistral_window": (MistralForCausalLM, MistralConfig(sliding_window=8, tie_word_embeddings=False, **SIZES), {}),
  "llama_tied_linear_bfloat16": (
    LlamaForCausalLM,
    LlamaConfig(rope_parameters=LINEAR, tie_word_embeddings=True, **SIZES),
    {},
  ),
}


def main() -> None:
  versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
  for seed, (name, (build, config, options)) in enumerate(MODELS.items()):
    torch.manual_seed(seed)
    model = build(config).eval()
    with torch.no_grad():
      for parameter_name, parameter in model.named_parameters():
        gain = 1.0 if "norm" in parameter_name else 0.0
        parameter.copy_(gain + 0.4 * torch.randn_like(parameter))
    folder = GOLDENS / name
    shutil.rmtree(folder, ignore_errors=True)
    if "bfloat16" in name:
      model = model.to(torch.bfloat16)
    model.save_pretrained(folder, **options)
    model = build.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokens = torch.randint(0, config.vocab_size, (3, 24))
    with torch.no_grad():
      logits = model(tokens).logits
    np.savez(folder / "logits.npz", tokens=tokens.int().numpy(), logits=logits.numpy(), versions=versions)


if __name__ == "__main__":
  main()
