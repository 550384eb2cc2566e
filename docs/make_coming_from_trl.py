"""Writes docs/coming_from_trl.md from the names that dpojax.config knows of TRL and others.

python docs/make_coming_from_trl.py
"""

import pathlib

from dpojax.config.foreign_keys import FOREIGN, NEEDLESS, TRAINING

PAGE = pathlib.Path(__file__).parent / "coming_from_trl.md"
LOSSES = {  # TRL 1.16's loss_type of DPO -> ours
  "sigmoid": "dpo",
  "sigmoid_norm": "dpo_norm",
  "hinge": "hinge",
  "ipo": "ipo",
  "exo_pair": "exo_pair",
  "nca_pair": "nca_pair",
  "robust": "robust_dpo",
  "bco_pair": "bco_pair",
  "sppo_hard": "sppo_hard",
  "aot": "aot",
  "aot_unpaired": "aot_unpaired",
  "apo_zero": "apo_zero",
  "apo_down": "apo_down",
  "discopop": "discopop",
  "sft": "sft",
}
SAME = ("beta", "label_smoothing", "ld_alpha", "desirable_weight", "undesirable_weight")
BEGINNING = """\
# Coming from TRL

<!-- made by docs/make_coming_from_trl.py; do not edit -->

The same job, told otherwise:

| | TRL | dpojax |
|:--|:--|:--|
| what is said | a script with `DPOConfig(...)` and `DPOTrainer(...)` | a config file, `dpojax train --config=mine.py --workdir=runs/mine`; a setting is changed by `--config.loss.beta=0.2` |
| a step | `per_device_train_batch_size` times `gradient_accumulation_steps` times devices | `batch.size` examples, whatever the devices; `batch.rows` says how many packed rows go through at once, and changes memory and speed alone |
| the batch | pairs padded to the longest, prompts twice | packed rows in which a prompt stands once for all its answers |
| the reference | a second model, or `precompute_ref_log_probs` | `reference.kind=live`, `cache` (float32 on disk, one for every beta and loss) or `moving` |
| going on | `resume_from_checkpoint` | the same command; it ends bit for bit as one left alone |
| what is watched | `rewards/accuracies`, `rewards/margins` on pairs | these, and what the policy writes to held-out prompts: rewards, exact KL, length, win rate (`docs/monitoring.md`) |
| a tokenizer's template | of the tokenizer | the same, or `data.template=FILE`; it goes with the run |
| unused columns | dropped without a word | named; usual names are understood (`docs/data.md`) |

A name of TRL's given as `--config.NAME=…` is answered with ours. These are all that are known.

## Losses

"""


def page() -> str:
  """The text of the page."""
  losses = [f"| `{theirs}` | `loss.name={ours}` |" for theirs, ours in LOSSES.items()]
  training = [f"| `{name}` | {meant} |" for name, meant in sorted(TRAINING.items())]
  same = [f"| `{name}` | loss.{name} |" for name in SAME]
  policy = [f"| `{name}` | {meant} |" for name, meant in sorted(FOREIGN.items())]
  needless = [f"| `{name}` | {why} |" for name, why in sorted(NEEDLESS.items())]
  head = ["| TRL | dpojax |", "|:--|:--|"]
  parts = [
    BEGINNING + "\n".join(["| `loss_type` | |", "|:--|:--|", *losses]),
    "TRL's `sigmoid` ignores `label_smoothing`; here `cdpo`, `robust_dpo` and `exo_pair` read it, and an option that a loss does not read is "
    "refused. Others, with formula and source: `docs/losses.md`.",
    "## Training",
    "\n".join([*head, *sorted(same + training)]),
    "## Needed no more",
    "\n".join(["| TRL | why |", "|:--|:--|", *needless]),
    "## PPO, RLOO, GRPO, online DPO",
    "\n".join([*head, *policy]),
  ]
  return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
  PAGE.write_text(page(), encoding="utf-8")
