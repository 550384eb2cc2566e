"""Small real tokenizers: one in the manner of ChatML models, one in that of Llama."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from dpojax.interop.tokenizer import Tokenizer

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
LLAMA = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"""
TEXT = [
  "the sky is blue and the sky is black. hello there, what is the answer? yes, no, maybe.",
  "\n\nHuman: how are you today?\n\nAssistant: I am well, thank you. 1234567890 user assistant system",
]


def trained(specials: list[str]) -> tokenizers.Tokenizer:
  backend = tokenizers.Tokenizer(models.BPE())
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  backend.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False, min_frequency=1
  )
  backend.train_from_iterator(TEXT, trainer)
  return backend


@pytest.fixture(scope="session")
def chatml() -> Tokenizer:
  """EOS is <|im_end|>; the template writes a line break after it; no BOS."""
  special = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "pad_token": "<|im_end|>"}
  return Tokenizer(trained(["<|im_start|>", "<|im_end|>"]), special_tokens=special, chat_template=CHATML)


@pytest.fixture(scope="session")
def llama() -> Tokenizer:
  """The tokenizer begins texts with <s>, and so does its template."""
  backend = trained(["<s>", "</s>"])
  backend.post_processor = processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
  )
  special = {"eos_token": "</s>", "bos_token": "<s>"}
  return Tokenizer(backend, special_tokens=special, chat_template=LLAMA)


@pytest.fixture(scope="session")
def plain(chatml) -> Tokenizer:
  """No template and no BOS."""
  return Tokenizer(trained(["<|im_end|>"]), special_tokens={"eos_token": "<|im_end|>"})


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A folder to put repositories in, with the library's cache beside it and its network off."""
  import datasets

  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
  datasets.disable_progress_bars()

  def write(files: dict[str, bytes]) -> str:
    for name, content in files.items():
      file = tmp_path / "repository" / name
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(content)
    return str(tmp_path / "repository")

  return write
