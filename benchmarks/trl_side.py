"""TRL's side of a comparison: DPO on token ids, timed. Runs under a Python that has trl; imports it when called."""

import tempfile
import time
from pathlib import Path

WARM_UP_STEPS = 2  # of either side, at least: of dpojax whole epochs, since its packing of each step differs
LEARNING_RATE = 1e-6


def num_tokens(row: dict) -> int:
  """Tokens of both answers, each with its prompt."""
  return 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])


def train(model: Path, rows: list[dict], *, setting: str, batch: int, reference: str = "live") -> dict:
  """Trains one pass through the rows after a warm-up, on the GPU where torch sees one.

  Args:
    model: a transformers folder with tokenizer.
    rows: `prompt_ids`, `chosen_ids`, `rejected_ids` of each pair.
    setting: of `trl.TRL_SETTINGS`: weights and products, and `+checkpoint` for recomputed activations.
    batch: pairs a step.
    reference: `live` or `cached`.

  Returns:
    `seconds` of the measured steps, `reference` (seconds and tokens of its pass beforehand), and on a GPU
    `peak_bytes`, the most that torch had allocated at one time.
  """
  import torch
  import transformers
  from datasets import Dataset
  from trl import DPOConfig, DPOTrainer

  on_gpu = torch.cuda.is_available()
  ends, passed = [], {}

  class Trainer(DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
      return dataset  # holds token ids already

    def _precompute_ref_logps(self, dataset, *args, **kwargs):
      began = time.perf_counter()
      computed = super()._precompute_ref_logps(dataset, *args, **kwargs)
      passed.update(seconds=time.perf_counter() - began, tokens=sum(map(num_tokens, dataset)))
      return computed

  class Clock(transformers.TrainerCallback):
    def on_step_end(self, *args, **kwargs):
      if on_gpu:
        torch.cuda.synchronize()
      ends.append(time.perf_counter())

  warm_up = [rows[i % len(rows)] for i in range(WARM_UP_STEPS * batch)]
  pure, checkpoint = setting.startswith("pure"), setting.endswith("+checkpoint")
  tokenizer = transformers.AutoTokenizer.from_pretrained(model)
  with tempfile.TemporaryDirectory() as scratch:
    settings = DPOConfig(
      output_dir=scratch,
      use_cpu=not on_gpu,
      bf16=setting.startswith("autocast"),
      tf32=False,
      precompute_ref_log_probs=reference == "cached",
      model_init_kwargs={"dtype": "bfloat16" if pure else "float32"},
      gradient_checkpointing=checkpoint,
      max_length=None,
      per_device_train_batch_size=batch,
      num_train_epochs=1,
      train_sampling_strategy="sequential",
      learning_rate=LEARNING_RATE,
      lr_scheduler_type="constant",
      logging_steps=1,
      save_strategy="no",
      report_to="none",
      disable_tqdm=True,
    )
    trainer = Trainer(
      str(model),
      args=settings,
      train_dataset=Dataset.from_list(warm_up + rows),
      processing_class=tokenizer,
      callbacks=[Clock()],
    )
    assert next(trainer.model.parameters()).dtype == (torch.bfloat16 if pure else torch.float32)
    trainer.train()
  found = {"seconds": ends[-1] - ends[WARM_UP_STEPS - 1], "reference": passed}
  return found | ({"peak_bytes": torch.cuda.max_memory_allocated()} if on_gpu else {})
