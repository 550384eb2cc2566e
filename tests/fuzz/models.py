"""Model folders, tokenizers and chat templates."""

import json
import struct
from typing import Any

from tests.fuzz.cases import FOLDER, LOOP, MISSING, Case
from tests.fuzz.mutate import ODD_NUMBERS, OTHER_TYPES, dumped, mutated_bytes, mutated_json, mutated_text, pick
from tests.fuzz.seeds import Seeds

PAIRS = "".join(
  json.dumps({"prompt": "is my parcel", "chosen": "yes we will", "rejected": answer}) + "\n"
  for answer in ("sorry", "be", "the")
).encode()
CHATS = json.dumps(
  {"messages": [{"role": "user", "content": "is my"}, {"role": "assistant", "content": "yes"}]}
).encode()
# Keys that transformers has and the tiny model does not.
CONFIG_KEYS = (
  "rope_scaling",
  "rope_parameters",
  "sliding_window",
  "layer_types",
  "head_dim",
  "quantization_config",
  "dtype",
)
CONFIG_KEYS += ("eos_token_id", "hidden_act", "attention_bias", "mlp_bias", "num_labels", "id2label", "architectures")
CONFIG_KEYS += ("partial_rotary_factor", "vocab_size", "model_type", "pad_token_id", "tie_word_embeddings", "auto_map")
ROPES: tuple[Any, ...] = (
  {"rope_type": "linear", "factor": 0.0},
  {"rope_type": "llama3", "factor": 8.0},
  {"rope_type": "yarn", "factor": 2.0},
  {"type": "linear", "factor": "2"},
  {"rope_type": "dynamic", "factor": 1e400},
  {
    "rope_type": "llama3",
    "factor": 8,
    "low_freq_factor": 4,
    "high_freq_factor": 1,
    "original_max_position_embeddings": 0,
  },
)


def mutated_object(content: bytes, keys: tuple[str, ...], rng) -> tuple[bytes, str]:
  """A JSON object with a key changed or added, or as `mutated_json`."""
  value = json.loads(content)
  if keys and rng.random() < 0.4:
    key = pick(rng, keys)
    value[key] = pick(rng, [pick(rng, OTHER_TYPES), pick(rng, ODD_NUMBERS), pick(rng, ROPES)])
    return dumped(value).encode(), f"key {'changed' if key in json.loads(content) else 'added'}"
  return mutated_json(value, rng)


def safetensors_damaged(content: bytes, rng) -> tuple[bytes, str]:
  """A safetensors file whose header, or its length, is wrong."""
  (size,) = struct.unpack("<Q", content[:8])
  header, body = content[8 : 8 + size], content[8 + size :]
  drawn = rng.random()
  if drawn < 0.2:
    wrong = pick(rng, [0, 1, size - 1, size + 1, size + 8, 2**31, 2**63 - 1, 2**64 - 1])
    return struct.pack("<Q", wrong) + header + body, "header's length"
  if drawn < 0.8:
    changed, kind = mutated_json(json.loads(header), rng)
    return struct.pack("<Q", len(changed)) + changed + body, f"header: {kind}"
  return mutated_bytes(content, rng)


def models_case(rng, seeds: Seeds) -> Case:
  """A model folder with one file damaged, in its values where it is JSON."""
  seed = pick(rng, ["model", "model", "sharded", "reward", "gguf"])
  files = seeds.files(seed)
  names = [name for name in files if "tokenizer" not in name and not name.endswith((".jinja", ".npz"))]
  json_names = [name for name in names if name.endswith(".json")]
  name = pick(rng, names + json_names * 3) if json_names else pick(rng, names)
  changed: bytes | str
  if rng.random() < 0.05:
    changed = kind = pick(rng, [MISSING, FOLDER, LOOP])
  elif name.endswith(".json"):
    changed, kind = mutated_object(files[name], CONFIG_KEYS if name.endswith("/config.json") else (), rng)
  elif name.endswith(".safetensors"):
    changed, kind = safetensors_damaged(files[name], rng)
  else:
    changed, kind = mutated_bytes(files[name], rng)
  path = name if seed == "gguf" else seed
  command = ["python", "gguf" if seed == "gguf" and rng.random() < 0.8 else "model", path]
  drawn = rng.random()
  if drawn < 0.04:
    command = ["score", f"--model={path}", "--data=pairs.jsonl", "--out=out.jsonl"]
  elif drawn < 0.06:
    command = ["eval", f"--model={path}", "--data=pairs.jsonl", "--out=out"]
  elif drawn < 0.08:
    command = ["sample", f"--model={path}", "--prompt=is my", "--max-tokens=4", "--rows=1"]
  what = name.rsplit("/")[-1].replace("model-", "").partition("-of")[0]
  return Case(
    "models", f"{'weights' if what[0] == '0' else what} {kind}", command, {name: changed, "pairs.jsonl": PAIRS}, (seed,)
  )


TOKENIZER_KEYS = ("bos_token", "eos_token", "unk_token", "added_tokens_decoder", "chat_template", "model_max_length")
TOKENIZER_KEYS += (
  "tokenizer_class",
  "add_bos_token",
  "padding_side",
  "extra_special_tokens",
  "clean_up_tokenization_spaces",
)
BESIDE: dict[str, Any] = {
  "special_tokens_map.json": {
    "eos_token": "<end>",
    "pad_token": {"content": "yes"},
    "additional_special_tokens": ["<bot>"],
  },
  "added_tokens.json": {"<new>": 15, "<bot>": 0},
  "generation_config.json": {"eos_token_id": [14], "bos_token_id": 0},
}
DECODERS: tuple[Any, ...] = (
  {"type": "ByteLevel"},
  {"type": "Metaspace", "replacement": "__"},
  {"type": "Sequence", "decoders": []},
  {"type": "Replace", "pattern": {"Regex": "("}, "content": ""},
  {"type": "Nothing"},
)


def tokenizers_case(rng, seeds: Seeds) -> Case:
  """A tokenizer's files, changed one by one."""
  files = seeds.files("model")
  beside = list(BESIDE)
  name = pick(rng, ["tokenizer.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json", *beside])
  content = json.dumps(BESIDE[name]).encode() if name in BESIDE else files[f"model/{name}"]
  changed: bytes | str
  drawn = rng.random()
  if drawn < 0.04:
    changed = kind = pick(rng, [MISSING, FOLDER, LOOP])
  elif name == "tokenizer.json" and drawn < 0.25:
    value = json.loads(content)
    kind = pick(rng, ["ids", "part", "model"])
    vocab = value["model"].get("vocab") or {"a": 0}
    if kind == "ids" and isinstance(vocab, dict):
      vocab[pick(rng, [*vocab, "new"])] = pick(rng, [-1, 2**31, 2**32, 2**63, 500, 0, 1, "1", None, 1.5])
    elif kind == "part":
      part = pick(
        rng, ["normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding", "added_tokens"]
      )
      value[part] = pick(rng, [*DECODERS, *OTHER_TYPES])
    else:
      value["model"] = pick(
        rng,
        [
          None,
          {},
          {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
          {"type": "Unigram", "vocab": [], "unk_id": 7},
          {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7},
          {"type": "WordLevel", "vocab": {}, "unk_token": "x"},
          {
            "type": "WordPiece",
            "vocab": {"a": 0},
            "unk_token": "x",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 0,
          },
        ],
      )
    changed = dumped(value).encode()
  else:
    changed, kind = mutated_object(content, TOKENIZER_KEYS if name == "tokenizer_config.json" else (), rng)
  command = ["python", "tokenizer", "model"]
  if rng.random() < 0.3:
    template = pick(rng, ["none", "none", "none", "auto"])
    command = [
      "data",
      "inspect",
      "--data=pairs.jsonl",
      "--model=model",
      f"--template={template}",
      "--batch.row_length=40",
    ]
  return Case("tokenizers", f"{name} {kind}", command, {f"model/{name}": changed, "pairs.jsonl": PAIRS}, ("model",))


TEMPLATES = (
  "{% for i in range(10**9) %}x{% endfor %}",
  "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
  "{{ 'x' * 10**10 }}",
  "{{ 10 ** 10 ** 10 }}",
  "{{ raise_exception('no\nsystem') }}",
  "{{ raise_exception() }}",
  "{{ raise_exception(messages) }}",
  "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
  "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(10**6) }}",
  "{{ undefined.attribute }}",
  "{{ messages[99].content }}",
  "{{ messages[0]['content']['x']['y'] }}",
  "{{ messages.__class__.__mro__ }}",
  "{{ ''.__class__ }}",
  "{{ cycler.__init__.__globals__ }}",
  "{{ 1 / 0 }}",
  "{{ messages | tojson(indent='x') }}",
  "{{ strftime_now('%Q') }}{{ strftime_now(1) }}",
  "{{ '%d' % 'x' }}",
  "{{ '{0.__class__}'.format(1) }}",
  "{% include 'x' %}",
  "{% extends 'x' %}",
  "{% import 'x' as y %}",
  "{% set x.y = 1 %}{{ x }}",
  "{{ messages.append(messages) }}{{ messages }}",
  "{{ messages.pop() }}{{ messages.pop() }}{{ messages.pop() }}",
  "{{ range(10**18) | list }}",
  "{{ lipsum(n=10**6) }}",
  "{{ 'a' | center(10**10) }}",
  "{{ ('a' * 10**6) | wordwrap(1) | length }}",
  "{% generation %}{{ x }}",
  "{% break %}",
  "{{ '\\ud800' }}",
  "\ud800",
  "\0",
  "",
  " ",
  "x",
  "{" * 5000,
  "{{ " + "(" * 5000 + ")" * 5000 + " }}",
  "{% if 1 %}" * 500 + "{% endif %}" * 500,
  "{{ messages | map(attribute='content.__class__') | list }}",
  "{{ [] | first }}{{ {} | random }}{{ messages | sort }}",
  "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
  "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
)


def templates_case(rng, seeds: Seeds) -> Case:
  """A chat template that attacks, fails, or is the tiny model's, changed."""
  drawn = rng.random()
  whole = json.loads(seeds.files("model")["model/tokenizer_config.json"]).get("chat_template")
  whole = whole or seeds.files("model")["model/chat_template.jinja"].decode()
  if drawn < 0.5:
    content, kind = pick(rng, TEMPLATES).encode("utf-8", "surrogatepass"), "odd"
  elif drawn < 0.85:
    text, kind = mutated_text(whole, rng)
    content = text.encode("utf-8", "surrogatepass")
  else:
    content, kind = mutated_bytes(whole.encode(), rng)
  data = pick(rng, [PAIRS, PAIRS, CHATS])
  recipe = ["--recipe=sft"] if data is CHATS else []
  command = ["data", "inspect", "--data=rows.jsonl", "--model=model", "--batch.row_length=40", *recipe]
  files: dict[str, bytes | str] = {"rows.jsonl": data, "model/chat_template.jinja": content}
  if rng.random() < 0.2:
    files["template.jinja"] = files.pop("model/chat_template.jinja")
    command.append("--template=template.jinja")
  return Case("templates", kind, command, files, ("model",))
