"""How often the rule that ends a run is wrong, on simulated runs; about half a minute, no device.

    python benchmarks/stopping.py [--runs=2000] [--seed=0]

A run is looked at again and again at the same N prompts. Reward of prompt i at look k: its own level (sd 1 between
prompts) + the curve at k + sampling noise (sd 1, of which a part `shared` is the same at every look, since prompts and
keys are). KL of an answer: log-normal about the curve's KL, sd over mean 0.75, correlated 0.4 between looks, as at the
complaint desk. Statistic, errors and thresholds are those of `dpojax.training.stopping`, called on arrays of runs.

A *false stop* is a stop at a look at which the whole window still rises, with KL held exactly stable: the worst case,
since growing KL prevents stops. *Detection* within m looks: of the runs not stopped before, those stopped at one of the m
looks after the first flat one, with KL noisy: the worst case there. Rises are in standard errors of the change over a window.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable

import numpy as np

sys.path.append(sys.path.pop(0))  # this folder last: some of its names are those of libraries
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from dpojax.training.stopping import KL_ERRORS, REWARD_ERRORS, kl_change, reward_change, stable_within

KL_SPREAD, KL_SHARED, KL_LEVEL, TOKENS = 0.75, 0.4, 0.13, 27
KL_TOLERANCE = 0.1  # the setting's default
PATIENCE = 2  # recommended
RISES = (2.0, 3.0, 3.7, 4.0, 5.0)  # a window, in standard errors
RISING = 10  # looks on the rising part, beside that at step 0
Statistic = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Noise:
  """What differs between looks, whatever the curve.

  Attributes:
    shared: part of the sampling noise's variance that all looks have in common.
    decay: correlation of the rest between neighbouring looks; 0: none.
    wobble: sd of a whole look about its curve, in sd of its mean's sampling noise: steps move all prompts at once, which
      no standard error over prompts sees.
  """

  shared: float = 0.3
  decay: float = 0.0
  wobble: float = 0.0

  def draw(self, runs: int, looks: int, prompts: int, generator: np.random.Generator) -> np.ndarray:
    """f64[runs, looks, prompts] rewards of a curve that is 0 throughout."""
    noise = generator.standard_normal((runs, looks, prompts))
    for k in range(1, looks if self.decay else 0):
      noise[:, k] = self.decay * noise[:, k - 1] + np.sqrt(1 - self.decay**2) * noise[:, k]
    noise *= np.sqrt(1 - self.shared)
    if self.wobble:
      noise += self.wobble * np.sqrt((1 - self.shared) / prompts) * generator.standard_normal((runs, looks, 1))
    level = np.sqrt(1 + self.shared)  # of the prompt, and what its looks share
    return noise + level * generator.standard_normal((runs, 1, prompts))

  def error(self, patience: int, prompts: int, noise_sd: float = 1.0) -> float:
    """The standard error of a change over a window, where noise does not decay."""
    place = np.arange(patience + 1) - patience / 2
    weights = place / np.sum(place**2) * patience
    return noise_sd * float(np.sqrt((1 - self.shared) * np.sum(weights**2) / prompts))


def draw_kl(
  curve: np.ndarray, runs: int, prompts: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """(kl nats an answer, tokens), each [runs, looks, prompts], about `curve` f64[looks] nats a token."""
  shape, sigma = (runs, len(curve), prompts), np.sqrt(np.log(1 + KL_SPREAD**2))
  same, own = generator.standard_normal((runs, 1, prompts)), generator.standard_normal(shape)
  factor = np.exp(sigma * (np.sqrt(KL_SHARED) * same + np.sqrt(1 - KL_SHARED) * own) - sigma**2 / 2)
  tokens = generator.integers(TOKENS - 8, TOKENS + 9, shape)
  return TOKENS * curve[:, None] * factor, tokens


def reward_is_flat(rewards: np.ndarray, patience: int, statistic: Statistic = reward_change) -> np.ndarray:
  """bool[runs, looks]: whether the rule sees no rise over the window that ends at each look."""
  flat = np.zeros(rewards.shape[:2], bool)
  for k in range(patience, rewards.shape[1]):
    change, error = statistic(rewards[:, k - patience : k + 1], np.arange(patience + 1))
    flat[:, k] = change <= REWARD_ERRORS * error
  return flat


def kl_is_stable(kl: np.ndarray, tokens: np.ndarray, patience: int, errors: float = KL_ERRORS) -> np.ndarray:
  """bool[runs, looks]: whether the rule sees KL stable over the window that ends at each look."""
  stable = np.zeros(kl.shape[:2], bool)
  for k in range(patience, kl.shape[1]):
    before, now, error = kl_change(kl[:, k - patience], tokens[:, k - patience], kl[:, k], tokens[:, k])
    stable[:, k] = np.abs(now - before) <= stable_within(before, error, KL_TOLERANCE, errors)
  return stable


def first_stop(stops: np.ndarray) -> np.ndarray:
  """i64[runs]: the first look that stops; looks, one past the last, where none does."""
  return np.where(stops.any(1), stops.argmax(1), stops.shape[1])


def linear(rise: float, flat: int) -> np.ndarray:
  """f64[looks]: 0, then `RISING` looks that rise by `rise` each, then `flat` that do not."""
  return rise * np.minimum(np.arange(RISING + 1 + flat), RISING)


def false_stops(rewards: np.ndarray, patience: int, statistic: Statistic = reward_change) -> float:
  """Share of runs stopped while the curve of `linear` rises."""
  return float(np.mean(reward_is_flat(rewards[:, : RISING + 1], patience, statistic).any(1)))


def detected(stops: np.ndarray, within: int, onset: int = RISING) -> float:
  """Share of runs stopped at one of the `within` looks after `onset`, of those not stopped before."""
  first = first_stop(stops)
  return float(np.mean(first[first > onset] <= onset + within))


def end_point(rewards: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The other statistic that was tried: the newest look less the oldest."""
  return reward_change(rewards[:, [0, -1]], np.asarray(steps)[[0, -1]])


def least_rise(noise: np.ndarray, patience: int, statistic: Statistic) -> float:
  """The rise a look, in sd / sqrt(N), from which on no more than 5 % of the runs of `linear` stop falsely."""
  low, high = 0.0, 16.0
  for _ in range(10):
    middle = (low + high) / 2
    curve = linear(middle / np.sqrt(noise.shape[-1]), 0)
    if false_stops(noise[:, : RISING + 1] + curve[:, None], patience, statistic) > 0.05:
      low = middle
    else:
      high = middle
  return high


def rising_then_flat(runs: int, generator: np.random.Generator) -> None:
  print("rising for 10 looks, then flat\n")
  print(
    "  n    N  rise/window  false stops  detected within 1, 2, 3, 4 looks   flat from step 0: by look 3, by look n + 2"
  )
  for prompts in (64, 256):
    noise = Noise().draw(runs, RISING + 6, prompts, generator)
    kl, tokens = draw_kl(np.full(RISING + 6, KL_LEVEL), runs, prompts, generator)
    for patience in (1, 2, 3, 4):
      stable = kl_is_stable(kl, tokens, patience)
      still = reward_is_flat(noise, patience) & stable
      for rise in RISES:
        curve = linear(rise * Noise().error(patience, prompts) / patience, 5)
        rewards = noise + curve[:, None]
        rate = false_stops(rewards, patience)
        stops = reward_is_flat(rewards, patience) & stable
        stops[:, : RISING + 1] = False  # detection of all runs, also of those that a real run would have ended
        shares = "  ".join(f"{detected(stops, m):6.1%}" for m in (1, 2, 3, 4))
        start = f"{detected(still, 3, 0):6.1%}  {detected(still, patience + 2, 0):6.1%}" if rise == RISES[0] else ""
        print(f"  {patience}  {prompts:3d}  {rise:8.1f} se  {rate:11.1%}  {shares}        {start}".rstrip())
  print()


def statistics(runs: int, generator: np.random.Generator) -> None:
  print(
    "least rise a look, in sd/sqrt(N), with at most 5 % false stops in 10 looks (times n / se: rise/window in se)\n"
  )
  print(
    "  noise between looks                   n  newest - oldest  least squares  rise/window, detected within 3 looks"
  )
  for words, kind in (("the same part shared, 0.3", Noise()), ("neighbours alike, 0.5", Noise(0.0, 0.5))):
    noise = kind.draw(runs, RISING + 6, 64, generator)
    for patience in (1, 2, 3, 4):
      cells = []
      for statistic in (end_point, reward_change):
        least = least_rise(noise, patience, statistic)
        curve = linear(least / 8, 5)
        stops = reward_is_flat(noise + curve[:, None], patience, statistic)
        stops[:, : RISING + 1] = False
        error = np.mean(statistic(noise[:, : patience + 1], np.arange(patience + 1))[1]) * 8
        cells.append((least, least * patience / error, detected(stops, 3)))
      (a, _, late), (b, windows, share) = cells
      print(
        f"  {words:36s}  {patience}  {a:15.2f}  {b:13.2f}  {windows:5.2f} se, {share:.1%} ({late:.1%} newest - oldest)"
      )
  print()


def kl_thresholds(runs: int, generator: np.random.Generator) -> None:
  print(f"flat: detected within 3 looks with KL stable within max(10 %, x standard errors), n = {PATIENCE}\n")
  print("    N      x = 1    x = 2")
  for prompts in (64, 256):
    rewards = Noise().draw(runs, 8, prompts, generator)
    kl, tokens = draw_kl(np.full(8, KL_LEVEL), runs, prompts, generator)
    flat = reward_is_flat(rewards, PATIENCE)
    shares = [detected(flat & kl_is_stable(kl, tokens, PATIENCE, errors), 3, 0) for errors in (1.0, 2.0)]
    print(f"  {prompts:3d}  " + "  ".join(f"{share:7.1%}" for share in shares))
  print()


def saturating(runs: int, generator: np.random.Generator) -> None:
  print(
    "reward 0.65 + 1.7 (1 - exp(-step / 75)), KL in proportion, noise as at the complaint desk (sd 0.75 between looks)"
  )
  print(
    "early: stopped before 90 % of the rise; reached: share of the rise at the stop, mean and least of 95 % of runs\n"
  )
  print("  every    N  n  rise/window at 90 %   early  early, KL held stable     reached  stopped at step, median")
  for every in (25, 50, 100):
    steps = np.arange(0, 1201, every)
    share = 1 - np.exp(-steps / 75)
    kind = Noise(shared=0.0)
    for prompts in (64, 256):
      noise = 0.75 * kind.draw(runs // 2, len(steps), prompts, generator)
      kl, tokens = draw_kl(KL_LEVEL * share, runs // 2, prompts, generator)
      for patience in (1, 2, 3):
        flat = reward_is_flat(noise + 1.7 * share[:, None], patience)
        first, alone = first_stop(flat & kl_is_stable(kl, tokens, patience)), first_stop(flat)
        reached, bound = share[np.minimum(first, len(steps) - 1)], share[np.minimum(alone, len(steps) - 1)]
        at = int(np.argmax(share >= 0.9))
        rise = 1.7 * (share[at] - share[max(0, at - patience)]) / kind.error(patience, prompts, 0.75)
        print(
          f"  {every:5d}  {prompts:3d}  {patience}  {rise:15.1f} se  {np.mean(reached < 0.9):7.1%}  "
          f"{np.mean(bound < 0.9):20.1%}  {np.mean(reached):6.1%} {np.quantile(reached, 0.05):6.1%}  "
          f"{steps[int(np.median(np.minimum(first, len(steps) - 1)))]:8d}"
        )
  print()


def wobbling(runs: int, generator: np.random.Generator) -> None:
  print(
    "false stops in 10 rising looks when whole looks wobble about the curve, N = 256 (complaint desk at 5e-4: about 2);"
  )
  print("and flat curves detected within 3 looks, KL stable throughout\n")
  print("  n  rise/window   wobble 0        1        2")
  noises = [Noise(wobble=wobble).draw(runs, RISING + 1, 256, generator) for wobble in (0, 1, 2)]
  for patience in (1, 2, 3, 4):
    for rise in (4, 8):
      curve = linear(rise * Noise().error(patience, 256) / patience, 0)
      shares = "  ".join(f"{false_stops(noise + curve[:, None], patience):7.1%}" for noise in noises)
      print(f"  {patience}  {rise:8d} se   {shares}")
    shares = "  ".join(f"{detected(reward_is_flat(noise, patience), 3, 0):7.1%}" for noise in noises)
    print(f"  {patience}         flat   {shares}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--runs", type=int, default=2000, help="simulated runs a row (2000)")
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  for part in (rising_then_flat, statistics, kl_thresholds, saturating, wobbling):
    part(options.runs, np.random.default_rng(options.seed))


if __name__ == "__main__":
  main()
