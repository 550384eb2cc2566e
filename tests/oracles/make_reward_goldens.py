"""Golden scores of sequence classifiers with one label, by transformers in float32.

    python tests/oracles/make_reward_goldens.py MODEL ../shared/data/hh_harmless.jsonl.gz     (makes them)
    python tests/oracles/make_reward_goldens.py --check FOLDER ROWS.jsonl                      (scores an export)

MODEL is SmolLM2 as written by `smollm2_to_transformers.py`. Writes under tests/oracles/goldens/

- rewards/NAME/: tiny random Llama and Mistral classifiers as `save_pretrained` leaves them, and scores.npz with
  `tokens` i32[B, T] (right-padded), `lengths` i32[B], `scores` f32[B];
- reward_smollm2_hh.npz: scores of HH answers by SmolLM2's trunk under a fixed random head: `head` f32[D], `scores`
  f32[N], `ids` i32[...] with `lengths` i32[N] (concatenated), `prompts` i32[N] (tokens of each that are the prompt).

All scores come from padded batches. Rows end in EOS, hold EOS inside, or end without one, and the pad token is
another one: transformers reads the score at the last token that is not padding.

`--check` loads FOLDER with `AutoModelForSequenceClassification` and prints a JSON list of the scores of ROWS, one
{"ids": [...]} a line, in one padded batch.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from hh_pairs import read_pairs
from transformers import (
  AutoModelForSequenceClassification,
  AutoTokenizer,
  LlamaConfig,
  LlamaForSequenceClassification,
  MistralConfig,
  MistralForSequenceClassification,
)

GOLDENS = Path(__file__).parent / "goldens"
EOS, PAD = 2, 3
SIZES = dict(
  vocab_size=40,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=8,
  max_position_embeddings=64,
  bos_token_id=1,
  eos_token_id=EOS,
  pad_token_id=PAD,
  num_labels=1,
  attn_implementation="eager",
)
MODELS = {
  "llama_untied": (
    LlamaForSequenceClassification,
    LlamaConfig(tie_word_embeddings=False, attention_bias=True, **SIZES),
  ),
  "mistral_tied_window": (
    MistralForSequenceClassification,
    MistralConfig(sliding_window=6, tie_word_embeddings=True, **SIZES),
  ),
}
PAIRS = 12
HEAD_SEED = 7


def versions() -> str:
  return f"torch {torch.__version__}, transformers {transformers.__version__}"


def padded(rows: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
  """A right-padded batch with its mask."""
  length = max(map(len, rows))
  ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
  mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
  return dict(input_ids=ids, attention_mask=mask)


@torch.no_grad()
def scores(model, rows: list[list[int]]) -> np.ndarray:
  return model(**padded(rows, model.config.pad_token_id)).logits[:, 0].float().numpy()


def make_tiny() -> None:
  for seed, (name, (build, config)) in enumerate(MODELS.items()):
    torch.manual_seed(seed)
    model = build(config).eval()
    with torch.no_grad():
      for parameter_name, parameter in model.named_parameters():
        parameter.copy_((1.0 if "norm" in parameter_name else 0.0) + 0.4 * torch.randn_like(parameter))
    folder = GOLDENS / "rewards" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    draws = np.random.default_rng(seed)
    lengths = [20, 3, 9, 14, 2, 11]
    rows = [draws.choice([i for i in range(40) if i != PAD], n).tolist() for n in lengths]
    rows[0][-1] = rows[1][-1] = rows[2][3] = rows[2][-1] = rows[3][0] = EOS
    batch = padded(rows, PAD)
    np.savez(
      folder / "scores.npz",
      tokens=batch["input_ids"].int().numpy(),
      lengths=np.array(lengths, np.int32),
      scores=scores(model, rows),
      versions=versions(),
    )


def make_smollm2(path: Path, pairs: Path) -> None:
  tokenizer = AutoTokenizer.from_pretrained(path)
  spare = tokenizer.convert_tokens_to_ids("<repo_name>")
  model = AutoModelForSequenceClassification.from_pretrained(
    path, num_labels=1, pad_token_id=spare, dtype=torch.float32, attn_implementation="eager"
  ).eval()
  head = np.random.default_rng(HEAD_SEED).normal(size=model.config.hidden_size) / np.sqrt(model.config.hidden_size + 1)
  head = head.astype(np.float32)
  with torch.no_grad():
    model.score.weight.copy_(torch.from_numpy(head)[None])
  rows, prompts = [], []
  for pair in read_pairs(pairs, PAIRS):
    prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True)["input_ids"]
    for side in ("chosen", "rejected"):
      full = tokenizer.apply_chat_template(pair["prompt"] + pair[side])["input_ids"]
      end = len(full) - full[::-1].index(tokenizer.eos_token_id)  # what the template writes behind EOS is left out
      assert full[: len(prompt)] == prompt
      rows.append(full[:end])
      prompts.append(len(prompt))
  found = np.concatenate([scores(model, rows[i : i + 6]) for i in range(0, len(rows), 6)])
  np.savez_compressed(
    GOLDENS / "reward_smollm2_hh.npz",
    head=head,
    ids=np.concatenate(rows).astype(np.int32),
    lengths=np.array(list(map(len, rows)), np.int32),
    prompts=np.array(prompts, np.int32),
    scores=found,
    versions=versions(),
  )


def check(folder: Path, rows: Path) -> None:
  model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
  eos = model.config.eos_token_id
  assert model.config.num_labels == 1 and model.config.pad_token_id not in (eos if isinstance(eos, list) else [eos])
  assert AutoTokenizer.from_pretrained(folder).pad_token_id == model.config.pad_token_id
  print(json.dumps(scores(model, [json.loads(line)["ids"] for line in rows.read_text().splitlines()]).tolist()))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("paths", nargs=2, type=Path)
  parser.add_argument("--check", action="store_true")
  arguments = parser.parse_args()
  transformers.utils.logging.disable_progress_bar()
  if arguments.check:
    check(*arguments.paths)
  else:
    make_tiny()
    make_smollm2(*arguments.paths)


if __name__ == "__main__":
  main()
