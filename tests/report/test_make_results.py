"""experiments/make_results.py: tables of the README from comparison.json of several seeds, counted by hand."""

import importlib.util
import json
import pathlib
import shutil

import pytest
from made_stages import make_comparison, make_experiment, make_stage

FILE = pathlib.Path(__file__).parents[2] / "experiments" / "make_results.py"


@pytest.fixture
def script():
  spec = importlib.util.spec_from_file_location("make_results", FILE)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def policy(name, kl, reward, share=None):
  point = {"kl": kl, "kl_error": 0.01, "reward/true": reward, "reward/true_error": 0.02}
  other = {"reward/true": reward - 0.5, "reward/true_error": 0.03}
  return {"name": name, "splits": {"held_out": point, "unseen_pair": other}, "share": share}


def write_seed(folder, seed, policies, commit="abcdef0123"):
  stage = folder / f"seed_{seed}" / "comparison"
  make_stage(stage, "comparison", {"seed": seed}, model=None)
  items = [
    {"name": p["name"], "strength": float(i), "rank_low": i, "rank_high": i + 1, "true_rank": i}
    for i, p in enumerate(policies, 1)
  ]
  found = {
    "reward": "true",
    "rewards": ["true"],
    "splits": ["held_out", "unseen_pair"],
    "policies": policies,
    "best_of_n": [{"n": 4, "kl": 0.6 + seed, "kl_error": 0.1, "reward/true": 2.0, "reward/true_error": 0.1}],
    "oracle": {"points": [{"kl": 3.0 + seed, "reward": 3.0, "reward_low": 2.9, "reward_high": 3.1}]},
    "tournament": {"items": items, "prompts": 128, "games": 6},
    "seed": seed,
    "prompts": 128,
    "samples_a_prompt": 16,
  }
  (stage / "comparison.json").write_text(json.dumps(found))
  device = {"count": 1, "kind": "cpu"}
  run = {"commit": commit, "clean": True, "device": device, "started": f"2026-01-0{seed + 1}T00:00:00"}
  (stage / "environment.json").write_text(json.dumps([run]))


def readme(folder, text="# Results\n\n<!-- frontier -->\nold\n<!-- end of frontier -->\n\nrest\n"):
  path = folder / "README.md"
  path.write_text(text)
  return path


def test_two_seeds(script, tmp_path):
  write_seed(tmp_path, 1, [policy("sft", 0.0, 0.4), policy("dpo", 2.0, 2.4, 0.8)])
  write_seed(tmp_path, 0, [policy("sft", 0.0, 0.6), policy("dpo", 1.0, 2.0, 0.9)], commit="0123456789")
  path = readme(tmp_path)
  assert script.main([str(tmp_path), f"--readme={path}"]) == 0
  text = path.read_text()
  assert text.startswith("# Results\n\n<!-- frontier -->\n") and text.endswith("<!-- end of frontier -->\n\nrest\n")
  assert "old" not in text
  assert "| dpo | 1.500 ± 0.707 | 2.200 ± 0.283 | 1.700 ± 0.283 | 85.0% (80.0% to 90.0%) |" in text
  assert "| sft | 0.000 ± 0.000 | 0.500 ± 0.141 | 0.000 ± 0.141 |  |" in text
  assert "| best of 4 | 1.100 ± 0.707 | 2.000 ± 0.000 |  |  |" in text
  assert "| dpo | 2.00 | 2-3, 2-3 | 2, 2 |" in text and text.index("| dpo | 2.00") < text.index("| sft | 1.00")
  assert "Commit `0123456`, `abcdef0`, 1 x cpu, 2026-01-01 to 2026-01-02; seeds 0, 1;" in text
  assert "standard deviation over seeds" in text and "ends at 3.0 to 4.0 nats" in text


def test_one_seed_has_the_error_over_prompts(script, tmp_path):
  write_seed(tmp_path, 0, [policy("sft", 0.0, 0.6), policy("dpo", 1.0, 2.0)])
  path = readme(tmp_path)
  assert script.main([str(tmp_path), f"--readme={path}"]) == 0
  assert "| dpo | 1.000 ± 0.010 | 2.000 ± 0.020 | 1.500 ± 0.030 |  |" in path.read_text()
  assert "seed 0;" in path.read_text() and "standard error over prompts" in path.read_text()


def test_what_holds_over_seeds_and_what_methods_cost(script, tmp_path):
  for seed, better in ((0, 0.5), (1, 0.7)):
    made = make_experiment(tmp_path / f"seed_{seed}", seed=seed)
    policies = {
      "sft": (made["sft"], "SFT", 0.0, 0.6),
      "dpo_2": (made["dpo_2"], "DPO, \N{GREEK SMALL LETTER BETA} 2", 1.0, 1.0),
      "dpo_0.1": (made["dpo_0.1"], "DPO, \N{GREEK SMALL LETTER BETA} 0.1", 3.0, 3.0),
      "ppo_2": (made["ppo_2"], "PPO", 1.0, 1.0 + better),
      "ppo_4": (made["ppo_4"], "PPO", 3.0, 3.0 + better),
    }
    make_comparison(tmp_path / f"seed_{seed}" / "comparison", policies, seed=seed)
  path = readme(tmp_path)
  assert script.main([str(tmp_path), f"--readme={path}"]) == 0
  text = path.read_text()
  assert "KL of DPO falls strictly as \N{GREEK SMALL LETTER BETA} rises in 2 of 2 comparisons." in text
  (line,) = [line for line in text.splitlines() if line.startswith("| PPO, learned reward | +")]
  assert line.startswith("| PPO, learned reward | +0.60 (") and "2 of 2 seeds above 0" in line
  assert "| 4: policy, reference, reward model, critic |" in text


def test_what_is_refused(script, tmp_path, capsys):
  path = readme(tmp_path)
  assert script.main([str(tmp_path / "none"), f"--readme={path}"]) == 1
  assert "no SEED/STAGE/comparison.json in it" in capsys.readouterr().err
  write_seed(tmp_path, 0, [policy("sft", 0.0, 0.6)])
  for text in ("no marks\n", "<!-- end of frontier -->\n<!-- frontier -->\n"):
    assert script.main([str(tmp_path), f"--readme={readme(tmp_path, text)}"]) == 1
    assert "once each, in this order" in capsys.readouterr().err and path.read_text() == text
  write_seed(tmp_path, 1, [policy("other", 0.0, 0.6)])
  assert script.main([str(tmp_path), f"--readme={readme(tmp_path)}"]) == 1
  assert "the seeds have other policies" in capsys.readouterr().err
  write_seed(tmp_path / "twice", 0, [policy("sft", 0.0, 0.6)])
  shutil.copytree(tmp_path / "twice" / "seed_0", tmp_path / "twice" / "again")
  assert script.main([str(tmp_path / "twice"), f"--readme={readme(tmp_path)}"]) == 1
  assert "a seed is there twice (0, 0)" in capsys.readouterr().err


@pytest.mark.parametrize(
  "change, said",
  [
    ({"prompts": 7}, "other prompts or answers"),
    ({"reward": "other", "rewards": ["other"]}, "other rewards"),
    ({"best_of_n": []}, "other numbers of best of N"),
    ({"tournament": None}, "other tournaments"),
  ],
)
def test_seeds_of_other_experiments_are_not_averaged(script, tmp_path, capsys, change, said):
  for seed in (0, 1):
    write_seed(tmp_path, seed, [policy("sft", 0.0, 0.6), policy("dpo", 1.0, 2.0)])
  path = tmp_path / "seed_1" / "comparison" / "comparison.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  assert script.main([str(tmp_path), f"--readme={readme(tmp_path)}"]) == 1
  assert said in capsys.readouterr().err


def test_a_learned_reward_is_told_as_its_gain(script, tmp_path):
  for seed, constant in ((0, 0.0), (1, 100.0)):  # comparisons leave a constant open
    policies = [policy("sft", 0.0, 0.6), policy("dpo", 1.0, 2.0)]
    write_seed(tmp_path, seed, policies)
    path = tmp_path / f"seed_{seed}" / "comparison" / "comparison.json"
    content = json.loads(path.read_text()) | {"rewards": ["true", "learned"]}
    for i, one in enumerate(content["policies"]):
      one["splits"]["held_out"] |= {"reward/learned": constant + i * (1 + seed), "reward/learned_error": 0.1}
    path.write_text(json.dumps(content))
  where = readme(tmp_path)
  assert script.main([str(tmp_path), f"--readme={where}"]) == 0
  (line,) = [line for line in where.read_text().splitlines() if line.startswith("| dpo | 1.000")]
  assert line.split(" | ")[3] == "1.500 ± 0.707"
