"""The batches on which TRL's losses are recorded: log-probs of six pairs with answers of one to nine tokens.

Numbers are multiples of a power of two, so that they are the same in float32. `make_trl_loss_goldens.py` writes them
beside the values; README.md describes them.
"""

import numpy as np

CHOSEN_LENGTHS, REJECTED_LENGTHS, GOLD_LENGTHS = [1, 4, 9, 3, 7, 2], [5, 4, 1, 8, 2, 6], [2, 6, 3, 1, 5, 4]
PROMPT_LENGTHS = [3, 1, 4, 2, 5, 1]  # tokens after the first one
DESIRABLE = [True, False, True, True, False, False]
VOCABULARY = 5


def grid(values, step):
  """Rounded to multiples of a power of two, so that they are the same numbers in float32."""
  return (np.round(np.asarray(values) / step) * step).tolist()


def draw(generator, lengths, scale=1.0, step=2.0**-10):
  return [grid(-np.maximum(generator.exponential(scale, n), step), step) for n in lengths]


def moved(generator, answers, by, step=2.0**-10):
  """Log-probs of the same answers under another model."""
  return [grid(np.minimum(np.asarray(a) + generator.normal(0, by, len(a)), -step), step) for a in answers]


def make_pairs(seed, by=1.5):
  generator = np.random.Generator(np.random.Philox(seed))
  prompt, chosen, rejected, gold = (
    draw(generator, n) for n in (PROMPT_LENGTHS, CHOSEN_LENGTHS, REJECTED_LENGTHS, GOLD_LENGTHS)
  )
  policy = dict(prompt=prompt, chosen=chosen, rejected=rejected, gold=gold)
  reference = {name: moved(generator, policy[name], by) if by else policy[name] for name in ("chosen", "rejected")}
  return dict(policy=policy, reference=reference)


def make_large_pairs(seed):
  """Log-ratios up to several thousand nats, of both signs."""
  generator = np.random.Generator(np.random.Philox(seed))
  data = make_pairs(seed)
  heavy = ["policy", "policy", "reference", "policy", "reference", "reference"]
  for model in ("policy", "reference"):
    for side in ("chosen", "rejected"):
      for i, answer in enumerate(data[model][side]):
        if (heavy[i] == model) != (side == "chosen"):
          data[model][side][i] = grid(np.asarray(answer) - generator.uniform(200, 1500, len(answer)), 0.25)
  return data


def make_vocabulary(seed):
  """Log-probs that come from logits over a small vocabulary, with log sum p^2 of each position."""
  generator = np.random.Generator(np.random.Philox(seed))
  data = make_pairs(seed)
  for side, lengths in (("chosen", CHOSEN_LENGTHS), ("rejected", REJECTED_LENGTHS)):
    logits = [grid(generator.normal(0, 2, (n, VOCABULARY)), 2.0**-6) for n in lengths]
    targets = [generator.integers(0, VOCABULARY, n).tolist() for n in lengths]
    log_p = [np.asarray(x) - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits]
    data["policy"].update(
      {
        f"{side}_logits": logits,
        f"{side}_targets": targets,
        side: [x[np.arange(len(t)), t].tolist() for x, t in zip(log_p, targets, strict=True)],
        f"{side}_log_sum_sq": [np.log(np.exp(2 * x).sum(-1)).tolist() for x in log_p],
      }
    )
    data["reference"][side] = moved(generator, data["policy"][side], 0.6)
  return data


def make_singles(seed, mismatched_by):
  """Single answers, with those of other prompts whose log-ratios have the mean `mismatched_by` a token."""
  pairs = make_pairs(seed)
  generator = np.random.Generator(np.random.Philox(seed + 1))
  sides = ["chosen" if good else "rejected" for good in DESIRABLE]
  policy, reference = ([pairs[m][side][i] for i, side in enumerate(sides)] for m in ("policy", "reference"))
  other = draw(generator, [len(answer) for answer in policy[-1:] + policy[:-1]])
  frozen = [grid(np.asarray(x) - mismatched_by + generator.normal(0, 0.2, len(x)), 2.0**-10) for x in other]
  prompt = pairs["policy"]["prompt"]
  return dict(
    desirable=DESIRABLE,
    policy=dict(prompt=prompt, answer=policy, mismatched=other),
    reference=dict(answer=reference, mismatched=frozen),
  )


def make_datasets():
  generator = np.random.Generator(np.random.Philox(5))
  datasets = dict(
    ordinary=make_pairs(1),
    equal=make_pairs(2, by=0),
    large=make_large_pairs(3),
    vocabulary=make_vocabulary(4),
    singles=make_singles(6, 0.3),
    singles_z_clamped=make_singles(7, -0.3),
    singles_equal=make_singles(8, 0.0),
    rewards={name: grid(generator.normal(0, 1.5, 6), 2.0**-10) for name in ("chosen", "rejected")},
  )
  datasets["rewards"]["margin"] = grid(generator.uniform(0, 2, 6), 2.0**-10)
  for name in ("answer", "mismatched"):
    datasets["singles_equal"]["reference"][name] = datasets["singles_equal"]["policy"][name]
  return datasets
