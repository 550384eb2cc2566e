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
# # A sweep of β, and the frontier that it draws
#
# β says how much a nat of KL costs: a small one lets the policy go far from where it started for reward, a large one holds it
# back. Four values from the same SFT model and the same pairs, then all four policies answer the same letters. Sizes are cut
# down so that the page runs in about two minutes; `make frontier` does it in full, with PPO and others beside DPO.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dpojax
from dpojax.report import comparison_report

BETAS = (0.1, 0.5, 1.0, 5.0)
NAMES = ["dpo_01", "dpo_05", "dpo_1", "dpo_5"]

# %% [markdown]
# ## The experiment
#
# Stages of `experiments/frontier.py`, without those that are not asked for here. `dpojax sweep --grid dpo.loss.beta=…` does the
# same from a shell for any config of yours: β is traced, so all its values compile once.

# %%
small = {
  "sft.train.steps": 120,
  "sft.data.texts": 5000,
  "pairs.pairs.prompts": 100,
  "comparison.comparison.policies": ",".join(f"stage:{name}" for name in NAMES),
  "comparison.comparison.oracle": ",".join(NAMES[:2]),
  "comparison.comparison.best_of_n": "",
  "comparison.comparison.splits": "held_out",
  "comparison.monitor.rewards": "true",
  "comparison.rollout.prompts": 32,
  "logging.plots": False,
}
for name in NAMES:
  small |= {f"{name}.train.steps": 40, f"{name}.evaluation.every": 0, f"{name}.monitor.prompts": 0}
  small |= {f"{name}.monitor.every": 0, f"{name}.monitor.rewards": "auto"}
full = dpojax.load_experiment("../experiments/frontier.py", values=small)
experiment = type(full)({name: full.stages[name] for name in ("sft", "pairs", *NAMES, "comparison")})
print([experiment.stages[name].loss.beta for name in NAMES])

# %%
workdir = Path(tempfile.mkdtemp())
dpojax.run(experiment, workdir)
print(comparison_report(workdir / "comparison", width=110))

# %% [markdown]
# ## The frontier
#
# True reward against exact KL, one point a policy. The oracle is $\pi_0 e^{r/\lambda}$, which no policy can beat at its KL,
# estimated by importance sampling from these very answers and shown as far as enough of them count.

# %%
found = json.loads((workdir / "comparison/comparison.json").read_text())
reference, *policies = found["policies"]
points = [policy["splits"]["held_out"] for policy in policies]
kl, reward = ([point[name] for point in points] for name in ("kl", "reward/true"))
errors = [point["reward/true_error"] for point in points]
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
oracle = found["oracle"]["points"]
axis.plot([0, *(p["kl"] for p in oracle)], [reference["splits"]["held_out"]["reward/true"], *(p["reward"] for p in oracle)],
          color="grey", label="oracle")  # fmt: skip
axis.errorbar(kl, reward, yerr=errors, fmt="o-", label="DPO")
for beta, x, y in zip(BETAS, kl, reward, strict=True):
  axis.annotate(f"β = {beta:g}", (x, y), xytext=(6, -10), textcoords="offset points")
axis.set(xlabel="KL to the SFT model, nats an answer", ylabel="true reward")
axis.legend()
plt.show()
print("KL falls as β rises:", bool(np.all(np.diff(kl) < 0)))

# %% [markdown]
# ## What they write
#
# The same letter under the same random keys, from the loosest to the tightest.

# %%
row = json.loads((workdir / "comparison/answers.jsonl").read_text().splitlines()[0])
print(row["prompt"], "\n")
for name in (found["reference"], *NAMES):
  answer = row["answers"][name]
  print(f"{name:8} {answer['rewards']['true']:6.2f}  {answer['text']}")
