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
# # A loss of your own, from the idea to the frontier
#
# The idea: DPO never stops pulling on a pair, hinge stops at once. Squared hinge, $\max(0, 1 - \beta m)^2$, pulls in proportion
# to what is missing of a margin of $1/\beta$. Does it matter? A page from the formula to the answer.

# %%
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import dpojax
from dpojax import losses

# %% [markdown]
# ## The loss
#
# A pure function of arrays: log-probs of both answers under policy and reference in, one value a pair out. Parameters after the
# star are options. Registered, it is a loss like any other: in configs, sums (`dpo + 0.5*squared_hinge`), packed batches,
# on many devices.

# %%
@losses.register(of_ratios=True)
def squared_hinge(chosen, rejected, reference_chosen, reference_rejected, *, beta=0.1):
  margin = chosen - reference_chosen - (rejected - reference_rejected)
  return jnp.square(jax.nn.relu(1 - beta * margin))


print(squared_hinge([-1.0, -2.0], [-3.0, -1.0], [-2.0, -2.0], [-2.0, -2.0], beta=0.5))

# %% [markdown]
# ## What it asks for
#
# Loss and gradient weight over the margin, beside DPO's and hinge's. And what every new loss should be asked before it is
# trained: its value where policy and reference are the same, and that value and gradient stay finite far out.

# %%
margins = jnp.linspace(-6, 6, 200)
zeros = jnp.zeros_like(margins)
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for loss in (squared_hinge, losses.dpo, losses.hinge):
  values, pullback = jax.vjp(lambda m, loss=loss: loss(m, zeros, zeros, zeros, beta=1.0), margins)
  axes[0].plot(margins, values, label=loss.__name__)
  axes[1].plot(margins, -pullback(jnp.ones_like(values))[0], label=loss.__name__)
axes[0].set(title="loss", xlabel="β · margin", ylim=(-0.5, 10))
axes[1].set(title="gradient weight", xlabel="β · margin", ylim=(-0.5, 6))
axes[0].legend()
plt.show()
far = jnp.asarray([-1e4, 1e4])
nothing = jnp.zeros(2)
values, slopes = jax.value_and_grad(lambda m: squared_hinge(m, nothing, nothing, nothing, beta=0.1).sum())(far)
print(
  "at the reference:",
  float(squared_hinge([0.0], [0.0], [0.0], [0.0])[0]),
  "  far out:",
  float(values),
  np.asarray(slopes),
)

# %% [markdown]
# ## Train it beside DPO
#
# The same SFT model, the same pairs, the same steps, two values of β for each. A loss is a setting.

# %%
small = {
  "sft.train.steps": 120,
  "sft.data.texts": 5000,
  "pairs.pairs.prompts": 100,
  "comparison.comparison.best_of_n": "",
  "comparison.comparison.splits": "held_out",
  "comparison.monitor.rewards": "true",
  "comparison.rollout.prompts": 32,
  "logging.plots": False,
}
quiet = {"train.steps": 40, "evaluation.every": 0, "monitor.prompts": 0, "monitor.every": 0, "monitor.rewards": "auto"}
full = dpojax.load_experiment("../experiments/frontier.py", values=small | {"comparison.comparison.oracle": ""})
trained = {
  f"{loss}_{beta:g}".replace(".", "_"): dpojax.replace_values(
    full.stages["dpo_05"], quiet | {"loss.name": loss, "loss.beta": beta}
  )
  for loss in ("dpo", "squared_hinge")
  for beta in (0.1, 1.0)
}
comparison = dpojax.replace_values(
  full.stages["comparison"],
  {
    "comparison.policies": ",".join(f"stage:{name}" for name in trained),
    "comparison.oracle": "dpo_0_1,dpo_1,squared_hinge_0_1",
  },
)
stages = {name: full.stages[name] for name in ("sft", "pairs")} | trained | {"comparison": comparison}
workdir = Path(tempfile.mkdtemp())
dpojax.run(type(full)(stages), workdir)

# %% [markdown]
# ## The frontier
#
# Not the loss reached, and not held-out accuracy, but what the policies write: true reward against KL, with standard errors
# over prompts, beside the oracle.

# %%
found = json.loads((workdir / "comparison/comparison.json").read_text())
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
start = found["policies"][0]["splits"]["held_out"]["reward/true"]
oracle = found["oracle"]["points"]
axis.plot([0, *(p["kl"] for p in oracle)], [start, *(p["reward"] for p in oracle)], color="grey", label="oracle")
for loss in ("dpo", "squared_hinge"):
  own = [policy["splits"]["held_out"] for policy in found["policies"][1:] if policy["method"] == loss]
  x, y, errors = ([point[key] for point in own] for key in ("kl", "reward/true", "reward/true_error"))
  axis.errorbar(x, y, yerr=errors, fmt="o-", label=loss)
axis.set(xlabel="KL to the SFT model, nats an answer", ylabel="true reward")
axis.legend()
plt.show()
for policy in found["policies"][1:]:
  share = "beyond the curve" if policy["share"] is None else f"{policy['share']:.0%} of the oracle's gain"
  print(f"{policy['name']:18} {share}")

# %% [markdown]
# One seed on a toy: whatever stands above is within what a second seed may change. For a claim, run `experiments/frontier.py` with
# your loss among its stages for eight seeds, and put the loss into a file of `dpojax/losses/` with the tests that
# `CONTRIBUTING.md` names.
