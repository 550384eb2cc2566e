# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DPO in a notebook, from a config to a changed β
#
# The pieces that `dpojax train` puts together, a few lines each. The built-in environment is a complaint desk: a clerk answers
# letters, and the true reward of every answer is known. Sizes are cut down here so that the whole page runs in about a
# minute; `experiments/quickstart.py` as it stands learns more.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import dpojax
from dpojax.data.show import show_row

experiment = dpojax.load_experiment(
  "../experiments/quickstart.py",
  values={
    "sft.train.steps": 60,
    "sft.data.texts": 2000,
    "pairs.pairs.prompts": 60,
    "dpo.train.steps": 40,
    "dpo.monitor.prompts": 16,
    "logging.plots": False,
  },
)
config = experiment.stages["dpo"]
config.loss

# %% [markdown]
# ## Model and data
#
# The experiment has two stages before DPO: supervised fine-tuning, and pairs that the fine-tuned model writes and the
# environment's true reward labels. Both run here and keep what they made in a folder; the inputs of the third are read from
# there.

# %%
workdir = Path(tempfile.mkdtemp())
dpojax.run(experiment, workdir, until="pairs")
inputs = dpojax.Inputs(config, dpojax.stage_folders(experiment, workdir))
policy = inputs.policy()
splits = inputs.splits(policy)
len(splits.train), len(splits.held_out), policy.model.config

# %% [markdown]
# ## A packed batch, decoded
#
# One row: each prompt once, then its answers. The chosen answer's scored tokens are green, the rejected one's red; grey
# tokens are only read.

# %%
batches, held_out = dpojax.make_batches(config, splits)
batch = batches(0)
print(batches.shape)
show_row(batch, policy.tokenizer, dataset=splits.train)

# %% [markdown]
# ## Objective, trainer, a few steps

# %%
optimizer = dpojax.make_optimizer(config.optimizer, steps=40)
spec = config.loss_spec
trainer = dpojax.Trainer(
  dpojax.Preference(policy.model, spec), optimizer, policy.params, reference_params=policy.params, hyper=spec.hyper
)
history = [(step, dpojax.fetch(metrics)) for step, metrics in trainer.steps(batches, until=20)]
first = history[0][1]
print(f"first loss {first['loss']:.6f} = ln 2; now {history[-1][1]['loss']:.4f}")

# %% [markdown]
# ## Change β and go on
#
# Hyper-parameters are traced: nothing compiles again.

# %%
trainer.hyper["beta"] = 0.5
history += [(step, dpojax.fetch(metrics)) for step, metrics in trainer.steps(batches, until=40)]
steps = [step for step, _ in history]
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for axis, name in zip(axes, ("loss", "rewards/margins"), strict=True):
  axis.plot(steps, [metrics[name] for _, metrics in history])
  axis.axvline(20.5, color="grey", linestyle=":")
  axis.set(title=name, xlabel="step")
plt.show()
trainer.evaluate(held_out)["rewards/accuracies"]

# %% [markdown]
# ## What the policy writes now
#
# KL to the reference is measured on text that the policy wrote: the exact KL of every next-token distribution, summed
# along its answers.

# %%
watching = dpojax.policy_monitoring(config, inputs, policy, splits, trainer.mesh)
sampler = watching.sampler(workdir, lambda: policy.params)
before, _ = sampler(policy.params)
after, letters = sampler(trainer.params)
for name in ("reward/true", "win_rate", "kl/sequence", "kl/token"):
  print(f"{name:12} before {before[name]:7.3f}   after {after[name]:7.3f}")
print(f"\n{letters[0]['prompt']}\n{letters[0]['answer']}")
