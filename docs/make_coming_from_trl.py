"""Writes docs/coming_from_trl.md from the names that dpojax.config knows of TRL and others.

python docs/make_coming_from_trl.py
"""

import pathlib

from dpojax.config.foreign_keys import FAMILIES, FOREIGN, MISSING, NEEDLESS, TRAINING, VALUES
from dpojax.losses.foreign_names import ELSEWHERE, FOREIGN_LOSSES, SAME_LOSSES

PAGE = pathlib.Path(__file__).parent / "coming_from_trl.md"
# Options of the same name and meaning, with what is ours to say of them.
SAME = {
  "beta": "loss.beta; of policy gradients policy_gradient.kl_coef, of `ipo` the paper's τ",
  "label_smoothing": "loss.label_smoothing, which only `cdpo`, `robust_dpo` and `exo_pair` read: TRL's `sigmoid` ignores it",
  "ld_alpha": "loss.ld_alpha",
  "desirable_weight": "loss.desirable_weight",
  "undesirable_weight": "loss.undesirable_weight",
  "alpha": "loss.alpha; TRL's XPO has it per epoch, TRL's CPO makes AlphaPO of it: loss.name=alphapo",
  "kl_coef": "policy_gradient.kl_coef",
  "whiten_rewards": "policy_gradient.whiten_rewards",
  "entropy_coef": "policy_gradient.entropy_coef",
  "fsdp": "parallel.fsdp, devices over which parameters are sharded",
  "gamma": "policy_gradient.gamma; of simpo the margin is loss.gamma",
  "learning_rate": "optimizer.learning_rate",
  "weight_decay": "optimizer.weight_decay, never of norms, biases and, other than there, embeddings: optimizer.decay_rule",
  "warmup_steps": "optimizer.warmup_steps, whole steps and no fraction of them",
  "seed": "seed, added to those of every section",
  "temperature": "rollout.temperature, monitor.temperature, pairs.temperature",
  "top_p": "monitor.top_p, pairs.top_p; roll-outs are drawn from the whole distribution",
  "top_k": "monitor.top_k, pairs.top_k; roll-outs are drawn from the whole distribution",
  "min_p": "not offered: roll-outs are drawn from the whole distribution",
  "repetition_penalty": "not offered: roll-outs are drawn from the whole distribution",
  "path": "data.path, model.path",
  "name": "data.name; `dataset_config` is data.subset",
  "split": "data.split",
  "columns": "data.columns",
  "project": "logging.project, of the tracker",
  "fraction": "data.limit, rows",
  "datasets": "one data set a stage; join files by `cat`",
}
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
  named = {name: f"`loss.name={name}`" for name in SAME_LOSSES} | FOREIGN_LOSSES | ELSEWHERE
  training = SAME | TRAINING
  only = {name: meant for name, meant in FOREIGN.items() if training.get(name) != meant}
  values = {f"{value}` of `{key}": ours for key, pairs in VALUES.items() for value, ours in pairs.items()}
  missing = MISSING | {f"{family}…": why for family, why in FAMILIES.items()}
  parts = [
    BEGINNING + table("`loss_type`", "dpojax", named),
    "A list `loss_type=[a, b]` with `loss_weights=[0.8, 0.2]` is the sum `loss.name=0.8*a + 0.2*b`, and a term may have options of its own: "
    "`0.8*dpo(beta=0.1) + 0.2*sft`. An option that a loss does not read is refused. Others, with formula and source: `docs/losses.md`.",
    "## Training",
    table("TRL", "dpojax", training),
    "## Values of other names",
    table("value", "dpojax", values),
    "## Needed no more",
    table("TRL", "why", NEEDLESS),
    "## Not offered",
    table("TRL", "why, and what comes nearest", missing),
    "## PPO, RLOO, GRPO, online DPO",
    table("TRL", "dpojax", only),
  ]
  return "\n\n".join(parts) + "\n"


def table(theirs: str, ours: str, rows: dict[str, str]) -> str:
  """A table of two columns, by name."""
  lines = [f"| `{name}` | {meant} |" for name, meant in sorted(rows.items())]
  return "\n".join([f"| {theirs} | {ours} |", "|:--|:--|", *lines])


if __name__ == "__main__":
  PAGE.write_text(page(), encoding="utf-8")
