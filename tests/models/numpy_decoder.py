"""A decoder of the Llama family in NumPy, one text at a time: no packing, no cache, no scan, no JAX."""

import numpy as np


def hidden_states(config, params, tokens):
  """[T, D] hidden states after the final norm of one text, in the dtype of the parameters. Rotary without scaling."""
  params = _as_numpy(params)
  x = params["embed"][np.asarray(tokens)]
  place = np.arange(len(tokens))
  seen = place[:, None] >= place[None, :]
  if config.window is not None:
    seen &= place[:, None] - place[None, :] < config.window
  for layer in range(config.layers):
    p = {name: value[layer] for name, value in params["layers"].items()}
    h = _norm(x, p["attention_norm"], config)
    q, k, v = (_heads(_linear(h, p, name), config) for name in ("query", "key", "value"))
    q, k = _rotate(q, config), _rotate(k, config)
    mixed = np.empty_like(q)
    for head in range(config.heads):
      shared = head * config.kv_heads // config.heads
      scores = q[:, head] @ k[:, shared].T / np.sqrt(config.head_dim)
      scores = np.exp(np.where(seen, scores - scores.max(axis=1, keepdims=True), -np.inf))
      mixed[:, head] = scores / scores.sum(axis=1, keepdims=True) @ v[:, shared]
    x = x + _linear(mixed.reshape(len(tokens), -1), p, "output")
    h = _norm(x, p["feed_forward_norm"], config)
    gate = _linear(h, p, "gate")
    x = x + _linear(gate / (1 + np.exp(-gate)) * _linear(h, p, "up"), p, "down")
  return _norm(x, params["final_norm"], config)


def _as_numpy(tree):
  return {name: _as_numpy(x) if isinstance(x, dict) else np.asarray(x) for name, x in tree.items()}


def _linear(x, p, name):
  return x @ p[name] + p.get(f"{name}_bias", 0)


def _norm(x, gain, config):
  return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_epsilon) * gain


def _heads(x, config):
  return x.reshape(len(x), -1, config.head_dim)


def _rotate(x, config):
  """Turns the pairs (i, i + d / 2) of every head by position times theta^(-2 i / d)."""
  assert config.rope_scaling is None
  half = config.head_dim // 2
  angle = np.arange(len(x))[:, None, None] * config.rope_theta ** (-np.arange(half) / half)
  first, second = x[..., :half], x[..., half:]
  return np.concatenate(
    [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=-1
  )
