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
# # Learning from what the policy writes: PPO and its siblings
#
# A roll-out, its advantages and its updates, one after another, on the built-in complaint desk whose true reward is known.
# Sizes are cut down here so that the whole page runs in about a minute; `experiments/ppo_world.py` as it stands learns more.
# Every detail of what happens below, with its source, stands in `docs/ppo.md`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dpojax
from dpojax import references
from dpojax.objectives import advantages
from dpojax.recipes.critic import critic_start
from dpojax.recipes.prompts import rollout_prompts
from dpojax.recipes.rollouts import make_objective, make_rollouts, make_trainer, resolved
from dpojax.recipes.writing import writer
from dpojax.training.answering import text_of

experiment = dpojax.load_experiment(
  "../experiments/ppo_world.py",
  values={
    "sft.train.steps": 150,
    "sft.data.texts": 5000,
    "ppo.batch.size": 8,
    "ppo.rollout.normalise": False,
    "ppo.monitor.rewards": "true",
    "ppo.monitor.prompts": 32,
    "logging.plots": False,
  },
)
config = resolved(experiment.stages["ppo"])
config.policy_gradient

# %% [markdown]
# ## The policy, its prompts and its reward
#
# Supervised fine-tuning comes first and stays in a folder. The policy and its reference start there; the critic is a
# network of its own, which starts from the same decoder (or from a reward model, where there is one) with a head of zeros.

# %%
workdir = Path(tempfile.mkdtemp())
dpojax.run(experiment, workdir, only="sft")
inputs = dpojax.Inputs(config, dpojax.stage_folders(experiment, workdir))
policy = inputs.language_model()
prompts, _ = rollout_prompts(config, policy)
reward = inputs.reward("true", "rollout.reward", policy.tokenizer)
critic = critic_start(inputs, policy).loaded

objective = make_objective(config, policy, critic)
reference = references.Live(policy.params)
trainer = make_trainer(config, objective, policy, critic, reference, inputs.optimizer(160, objective.parameters))
write, text = writer(policy, config.rollout, trainer.mesh), text_of(policy.tokenizer, ())
rollouts = make_rollouts(config, trainer, prompts, reward, write, text, workdir / "ppo")
len(prompts), rollouts.batch_prompts, rollouts.updates

# %% [markdown]
# ## A roll-out
#
# `rollouts(step)` gives the minibatch of a step. Asked for the first one, it lets the policy write four answers to each of 32
# prompts, scores them, and computes log-probs, values and advantages. All of it is kept on disk before the first update.

# %%
batch = rollouts(0)
rollout = rollouts.current
samples = config.rollout.samples
print(prompts[rollout.prompts[0]].text)
for a in range(samples):
  answer = policy.tokenizer.decode(rollout.tokens[a, : rollout.length[a]], skip_special_tokens=True)
  print(f"{rollout.score[a]:6.2f}  {answer}")
{name: round(value, 4) for name, value in rollout.metrics.items() if name.startswith("objective")}

# %% [markdown]
# ## Advantages
#
# PPO turns a score at the last token into an advantage of every token, by what the critic expected on the way. At the start
# the critic expects nothing, so an advantage is the score, discounted towards the beginning by $\lambda$. RLOO compares an answer
# with the others to its prompt; GRPO divides that by their spread, which makes it the gradient of no reward at all.

# %%
scores = rollout.score.reshape(-1, samples)
length = int(rollout.length[0])
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(np.arange(1, length + 1), rollout.advantage[0, :length])
axes[0].set(title="PPO: advantage of each token of an answer", xlabel="token")
places = np.arange(samples)
axes[1].bar(places - 0.2, advantages.rloo(scores)[0], 0.4, label="RLOO")
axes[1].bar(places + 0.2, advantages.grpo(scores)[0], 0.4, label="GRPO")
axes[1].set(title="Advantage of each answer to one prompt", xlabel="answer", xticks=places)
axes[1].legend()
plt.show()

# %% [markdown]
# ## The first update sees a ratio of exactly 1
#
# The log-probs of the policy that wrote the answers are computed by the very pass that the updates differentiate, on the very
# rows of the minibatches. Before anything has moved, importance weights are therefore 1 to the last bit, in bfloat16 too.

# %%
seen, metrics_of = [], {}
for step, metrics in trainer.steps(rollouts, until=rollouts.updates):
  metrics_of[step] = dpojax.fetch(metrics)
first = metrics_of[1]
print(f"ratio {first['policy/ratio']}  squared {first['policy/ratio_square']}  clipped {first['policy/clip_fraction']}")
print({name: round(metrics_of[2][name], 6) for name in ("policy/ratio", "policy/approx_kl", "policy/clip_fraction")})

# %% [markdown]
# ## Ten roll-outs
#
# Score and KL of what the policy writes, roll-out by roll-out. The controller moves the weight of KL towards a target of 2
# nats an answer.

# %%
history = [rollout.metrics]
for step, metrics in trainer.steps(rollouts, until=10 * rollouts.updates):
  metrics_of[step] = dpojax.fetch(metrics)
  if step % rollouts.updates == 1:
    history.append(rollouts.current.metrics)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
for axis, name in zip(axes, ("objective/score", "objective/kl", "objective/kl_coef"), strict=True):
  axis.plot([metrics[name] for metrics in history], marker=".")
  axis.set(title=name, xlabel="roll-out")
plt.show()
print(f"score {history[0]['objective/score']:.2f} -> {history[-1]['objective/score']:.2f}")

# %% [markdown]
# ## Weights that run away
#
# A roll-out may be used several times, but its importance weights drift from 1 as the policy leaves the one that wrote it. Here
# one roll-out is used for twelve passes, with no limit on how far the policy moves: the variance of the weights, which the
# gradient inherits, grows a thousandfold within a few of them. Clipping keeps such tokens from pulling, not from being stale.

# %%
stale = experiment.stages["ppo"]
stale = dpojax.replace_values(stale, {"policy_gradient.epochs": 12, "policy_gradient.update_kl_limit": 0.0})
stale = resolved(stale)
again = make_trainer(stale, objective, policy, critic, reference, inputs.optimizer(1000, objective.parameters))
reused = make_rollouts(stale, again, prompts, reward, write, text, workdir / "stale")
squares = [dpojax.fetch(m)["policy/ratio_square"] for _, m in again.steps(reused, until=reused.updates)]
per_pass = np.asarray(squares).reshape(stale.policy_gradient.epochs, -1).mean(axis=1)
plt.figure(figsize=(5, 3), layout="constrained")
plt.semilogy(np.arange(1, len(per_pass) + 1), per_pass - 1, marker=".")
plt.xlabel("pass over the same roll-out")
plt.title("variance of a token's importance weight")
plt.show()
print(f"first pass {per_pass[0] - 1:.4f}, last {per_pass[-1] - 1:.4f}")

# %% [markdown]
# ## What the policy writes now
#
# On held-out letters, with the exact KL along its answers.

# %%
watching = dpojax.policy_monitoring(config, inputs, policy, [], trainer.mesh)
sampler = watching.sampler(workdir, lambda: policy.params)
before, _ = sampler(policy.params)
after, letters = sampler(trainer.policy_params)
for name in ("reward/true", "win_rate", "kl/sequence", "kl/token"):
  print(f"{name:12} before {before[name]:7.3f}   after {after[name]:7.3f}")
print(f"\n{letters[0]['prompt']}\n{letters[0]['answer']}")
