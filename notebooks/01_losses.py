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
# # From Bradley–Terry to DPO, with running code
#
# One function, $-\log\sigma$, three times: strengths of teams, a reward model, a policy. Every step of the derivation is
# computed beside its formula; `docs/losses.md` has all losses with their sources.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

from dpojax import losses
from dpojax.bradley_terry import Comparisons, fit, standard_errors
from dpojax.environments.bandit import Bandit
from dpojax.report.loss_curves import draw_loss

# %% [markdown]
# ## Bradley–Terry
#
# $P(i > j) = \frac{\alpha_i}{\alpha_i + \alpha_j} = \sigma(\theta_i - \theta_j)$ with $\theta = \log\alpha$. Only differences
# of $\theta$ count, so strengths are known up to a common factor. Six answers to a prompt, 4,000 comparisons drawn from
# their true strengths:

# %%
draws = np.random.default_rng(0)
truth = np.array([-1.5, -0.8, -0.1, 0.3, 0.9, 1.2])
first, second = draws.integers(0, 6, (2, 4000))
first, second = first[first != second], second[first != second]
won = draws.random(len(first)) < 1 / (1 + np.exp(truth[second] - truth[first]))
winner, loser = np.where(won, first, second), np.where(won, second, first)
found = fit(Comparisons.from_pairs(winner, loser))
strengths, errors = found.log_strength, standard_errors(found)
for i in range(6):
  print(f"answer {i}: true {truth[i] - truth.mean():+.2f}   found {strengths[i]:+.2f} ± {errors[i]:.2f}")

# %% [markdown]
# ## The same as a reward model
#
# A reward model gives each answer a number $r$ and is trained by the negative log-likelihood of the comparisons,
# $-\log\sigma(r_w - r_l)$, which is binary cross-entropy on "the first one won". With one free number an answer it is the
# fit above: its gradient vanishes at the strengths.

# %%
loss_of_rewards = jax.jit(lambda r: jnp.mean(losses.bradley_terry(r[winner], r[loser])))
rewards = jnp.asarray(strengths, jnp.float32)
print(f"negative log-likelihood a comparison  {-found.log_likelihood / len(winner):.6f}")
print(f"reward model's loss at the strengths  {loss_of_rewards(rewards):.6f}")
print(f"largest gradient there                {np.abs(jax.grad(loss_of_rewards)(rewards)).max():.1e}")

# %% [markdown]
# ## What RLHF maximises, and its solution
#
# $\max_\pi\; \mathbb{E}_{y\sim\pi}[r(y)] - \beta\,\mathrm{KL}(\pi\,\|\,\pi_0)$. Written out, the objective is
# $-\beta\,\mathrm{KL}(\pi\,\|\,\pi^*) + \beta\log Z$ with
#
# $$\pi^*(y) = \frac{1}{Z}\,\pi_0(y)\,e^{r(y)/\beta},$$
#
# so its maximum is $\pi^*$. A numerical maximum over all distributions agrees:

# %%
beta = 0.5
reference = np.array([0.25, 0.25, 0.2, 0.15, 0.1, 0.05])
bandit = Bandit(rewards=truth, start=np.log(reference))
maximum = minimize(lambda logits: -bandit.objective(logits, beta), np.zeros(6), method="BFGS").x
optimal = np.exp(bandit.optimum(beta))
print("closed form", np.round(optimal, 4))
print("maximised  ", np.round(np.exp(maximum) / np.sum(np.exp(maximum)), 4))

# %% [markdown]
# ## DPO: the policy is the reward model
#
# Solve for the reward: $r(y) = \beta\log\frac{\pi^*(y)}{\pi_0(y)} + \beta\log Z$. In a comparison $Z$ cancels, so the reward
# model's loss becomes a loss of the policy itself,
#
# $$-\log\sigma\Big(\beta\log\frac{\pi(y_w)}{\pi_0(y_w)} - \beta\log\frac{\pi(y_l)}{\pi_0(y_l)}\Big).$$
#
# At $\pi^*$ of the strengths found above it equals the reward model's loss, and its gradient vanishes there. At
# $\pi = \pi_0$ it is $\log 2$ whatever $\beta$ is: the first number that a DPO run prints.

# %%
log_reference = jnp.log(jnp.asarray(reference, jnp.float32))
loss_of_policy = jax.jit(
  lambda logits: jnp.mean(
    losses.dpo(
      jax.nn.log_softmax(logits)[winner],
      jax.nn.log_softmax(logits)[loser],
      log_reference[winner],
      log_reference[loser],
      beta=beta,
    )
  )
)
optimum = log_reference + rewards / beta
print(f"DPO's loss at pi*   {loss_of_policy(optimum):.6f}   (reward model {loss_of_rewards(rewards):.6f})")
print(f"largest gradient    {np.abs(jax.grad(loss_of_policy)(optimum)).max():.1e}")
print(f"at the reference    {loss_of_policy(log_reference):.6f}   (ln 2 = {np.log(2):.6f})")

# %% [markdown]
# ## What a pair pulls
#
# The gradient is $-\beta\,\sigma(-\beta m)\,(\nabla\log\pi(y_w) - \nabla\log\pi(y_l))$ with the margin $m$: pairs that the policy
# has the wrong way round pull most. Left the loss, right the weight $\sigma(-\beta m)$, both over $\beta m$.

# %%
draw_loss("dpo")

# %% [markdown]
# Other losses put other weights on the same margin. IPO pulls back once the margin is reached, hinge stops, robust DPO
# corrects for labels that are flipped with a known rate.

# %%
margins = jnp.linspace(-6, 6, 200)
zeros = jnp.zeros_like(margins)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for name, options in {
  "dpo": {},
  "ipo_sum": {},
  "hinge": {},
  "cdpo": {"label_smoothing": 0.1},
  "robust_dpo": {"label_smoothing": 0.1},
}.items():
  of_margin = functools.partial(getattr(losses, name), beta=1.0, **options)
  slope = jax.grad(lambda m, loss=of_margin: loss(m, zeros, zeros, zeros).sum())(margins)
  axes[0].plot(margins, of_margin(margins, zeros, zeros, zeros), label=name)
  axes[1].plot(margins, -slope, label=name)
axes[0].set(title="loss", xlabel="β · margin", ylim=(-2, 8))
axes[1].set(title="gradient weight", xlabel="β · margin", ylim=(-1, 2.5))
axes[1].legend()
plt.show()

# %% [markdown]
# ## Descend it
#
# From $\pi_0$, following DPO's gradient on the comparisons alone, the policy arrives at $\pi_0 e^{\hat r/\beta}/Z$ of the fitted
# strengths, and close to that of the true ones.

# %%
gradient = jax.jit(jax.grad(loss_of_policy))
logits = log_reference
for _ in range(3000):
  logits = logits - 8.0 * gradient(logits)
policy = np.asarray(jax.nn.softmax(logits))
fitted = np.asarray(jax.nn.softmax(optimum))
print("trained        ", np.round(policy, 3))
print("of the strengths", np.round(fitted, 3))
print("of the truth   ", np.round(optimal, 3))
print(f"total variation to that of the strengths: {0.5 * np.abs(policy - fitted).sum():.1e}")
