"""How a stage's policy writes its roll-outs, and the reward on the scale of what its reference writes."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from dpojax.config.schema import RolloutSettings
from dpojax.data.prompts import PromptRow, PromptRows
from dpojax.parallel.rules import whole_rows
from dpojax.recipes.inputs import digest_of_text
from dpojax.references import Log
from dpojax.rewards.normalisation import apply, constant_terms, measure
from dpojax.rewards.reward import Reward
from dpojax.rollout.answers_file import Sampling, prompts_digest, sample
from dpojax.rollout.stop import stop_texts
from dpojax.rollout.writing import Sample
from dpojax.training.answering import Write, prompted
from dpojax.training.model_files import LoadedModel
from dpojax.training.rollout_files import ROLLOUTS
from dpojax.training.stage_record import Fingerprint
from dpojax.training.stored_files import MEASURED_ANEW, read_json, save_json
from dpojax.types import Params

AT_ONCE = 512  # answers sampled together
FIRST_NUMBER = 2**31  # prompts that a normalisation is measured on have numbers from here, roll-outs' from 0


def writer(policy: LoadedModel, settings: RolloutSettings, mesh: Mesh) -> Write:
  """The sampler with a stage's settings: from the whole distribution at the temperature, so that KL is that of the text."""
  stop = stop_texts(settings.stop, "rollout.stop")
  sampling = Sampling(settings.samples, settings.max_tokens, settings.temperature, stop=stop, seed=settings.seed)
  shared = mesh if mesh.size > 1 else None

  def write(
    params: Params, prompts: Sequence[np.ndarray], numbers: Sequence[int], progress: Callable[[int, int], None]
  ) -> list[list[Sample]]:
    return sample(
      policy.model,
      params,
      policy.tokenizer,
      prompts,
      sampling,
      numbers=numbers,
      rows=whole_rows(AT_ONCE, shared),
      mesh=shared,
      progress=progress,
    )

  return write


def rollout_fingerprints(prompts: PromptRows, reward: Reward, setting: str) -> dict[str, Fingerprint]:
  """Of what a stage's roll-outs read; `setting` is what names the reward."""
  return {
    "prompts": Fingerprint(prompts_digest(prompts), f"{len(prompts):,} prompts"),
    "reward": Fingerprint(digest_of_text(reward.fingerprint), setting),
  }


def normalised_reward(
  reward: Reward,
  settings: RolloutSettings,
  write: Write,
  prompts: Sequence[PromptRow],
  reference: Callable[[], Params],
  decode: Callable[[Sample], str],
  folder: pathlib.Path,
  identity: str = "",
  log: Log | None = None,
) -> Reward:
  """The reward with mean 0 and standard deviation 1 over what the reference writes, where that is asked for.

  Gain and bias are measured once and stay in the folder; anew where the stage goes on with other settings or inputs.

  Raises:
    CheckpointError: what was measured is damaged.
  """
  if not settings.normalise:
    return reward
  path = folder / ROLLOUTS / "normalisation.json"
  known = read_json(path, MEASURED_ANEW)
  if known is None or known["identity"] != identity:
    some = prompts[: settings.normalise_on]
    count = f"{len(some) * settings.samples:,} answers of the reference"
    if log is not None:
      log.message(f"normalising {reward.name} on {count}")
    numbers = range(FIRST_NUMBER, FIRST_NUMBER + len(some))

    def progress(done: int, tokens: int) -> None:
      if log is not None:
        log.status(f"normalising {reward.name}: {done:,} of {count}, {tokens:,} tokens")

    samples = write(reference(), [row.ids for row in some], numbers, progress)
    known = {"identity": identity, "terms": measure(reward, prompted(some, samples, decode))}
    save_json(path, known)
    if log is not None:
      for warning in constant_terms(known["terms"]):
        log.message(warning)
  return apply(reward, known["terms"])
