"""A tiny model folder to run commands on, and its log-probs computed without packing."""

import functools

import jax
import numpy as np

from dpojax.interop.files import write_model_folder
from dpojax.interop.tokenizer import Tokenizer
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel
from dpojax.models.weights import tensors_from_params

WORDS = ["<bot>", "<user>", "be", "calm", "is", "my", "our", "parcel", "refund", "sorry", "the", "we", "will", "yes"]
TEMPLATE = (
  "{% for m in messages %}{{ '<user> ' if m.role == 'user' else '<bot> ' }}{{ m.content }}"
  "{{ ' <end> ' if m.role == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
POSITIONS = 40


class TinyModel:
  """Writes the folder; `path` is what `--model` takes."""

  def __init__(self, folder, seed=3):
    self.path = str(folder)
    self.tokenizer = Tokenizer.from_words(WORDS, eos="<end>", chat_template=TEMPLATE)
    config = ModelConfig(
      vocab_size=self.tokenizer.vocab_size,
      hidden=16,
      layers=2,
      heads=2,
      kv_heads=1,
      ffn=24,
      max_positions=POSITIONS,
      tie_embeddings=False,
      eos_ids=(self.tokenizer.eos_id,),
    )
    self.model = LanguageModel(config)
    self.params = self.model.init(jax.random.key(seed))
    self.params["head"] = self.params["head"] * 30  # far from uniform
    tensors = tensors_from_params(config, jax.device_get(self.params))
    write_model_folder(folder, config.to_transformers(), tensors, self.tokenizer, {}, max_shard_bytes=10**9)

  def logp(self, prompt: list[int], answer: list[int]) -> float:
    """Summed log-prob of `answer` after `prompt`, by the cached path, alone in its batch."""
    text = np.zeros((1, POSITIONS), np.int32)
    count = len(prompt) + len(answer)
    text[0, :count] = prompt + answer
    logps = np.asarray(_all_logps(self.model, self.params, text, np.int32(count)), np.float64)
    return sum(logps[len(prompt) - 1 + t, token] for t, token in enumerate(answer))


@functools.partial(jax.jit, static_argnames="model")
def _all_logps(model, params, text, count):
  hidden, _ = model.prefill(params, text, count[None])
  return jax.nn.log_softmax(model.logits(params, hidden)[0], axis=-1)
