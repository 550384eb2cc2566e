"""The simulated runs are decided as the rule decides them, and the script prints its tables."""

import numpy as np

from benchmarks import stopping
from dpojax.config.schema import StopSettings
from dpojax.training.stopping import PolicySample, should_stop


def test_runs_in_arrays_are_decided_as_the_rule_decides_each():
  generator = np.random.default_rng(0)
  curve = stopping.linear(0.2, 4)
  rewards = stopping.Noise().draw(20, len(curve), 16, generator) + curve[:, None]
  kl, tokens = stopping.draw_kl(0.1 * (1 - np.exp(-np.arange(len(curve)) / 4)), 20, 16, generator)
  for patience in (1, 2, 3):
    stops = stopping.reward_is_flat(rewards, patience) & stopping.kl_is_stable(kl, tokens, patience)
    assert 0.02 < stops.mean() < 0.9
    for run in range(20):
      looks = [PolicySample(k, rewards[run, k], kl[run, k], tokens[run, k]) for k in range(len(curve))]
      decided = [should_stop(looks[: k + 1], StopSettings(patience=patience)).stop for k in range(len(curve))]
      assert decided == stops[run].tolist()


def test_errors_are_what_the_noise_says_they_are():
  noise = stopping.Noise(shared=0.4)
  rewards = noise.draw(4000, 4, 16, np.random.default_rng(1))
  change, error = stopping.reward_change(rewards, np.arange(4))
  assert abs(np.std(change) / noise.error(3, 16) - 1) < 0.04
  assert abs(np.sqrt(np.mean(error**2)) / noise.error(3, 16) - 1) < 0.02


def test_the_tables(monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["stopping.py", "--runs=20"])
  stopping.main()
  lines = capsys.readouterr().out.splitlines()
  assert sum(line.strip().startswith("2  256") for line in lines) == len(stopping.RISES)
