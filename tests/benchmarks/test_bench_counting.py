"""Operations and bytes counted by hand on rows small enough to list."""

import itertools

import jax
import numpy as np

from benchmarks.counting import (
  attention_floor,
  batch_counts,
  forward_operations,
  layer_weights,
  step_operations,
  update_bytes,
  visible_scores,
)
from benchmarks.kernels import SMOLLM2, hh_like_rows
from benchmarks.scaling import filled_rows
from benchmarks.shared_prompts import both_forms, one_ranking
from dpojax.models.config import ModelConfig
from dpojax.models.language_model import LanguageModel

CONFIG = ModelConfig(vocab_size=11, hidden=6, layers=2, heads=3, kv_heads=1, ffn=5, head_dim=2)
# The row of `PackedBatch`'s docstring: a prompt of 3 with answers of 2 and 3; then one of 2, with answers of 2 and 3.
SEGMENT = np.array([[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, -1]])
ANSWER = np.array([[-1, -1, -1, 0, 0, 1, 1, 1, -1, -1, 2, 2, 3, 3, 3, -1]])


def test_visible_scores_of_the_row_in_the_docstring():
  # A prompt of p sees 1 + ... + p; the i-th token of an answer sees p + i.
  first = (1 + 2 + 3) + (4 + 5) + (4 + 5 + 6)
  second = (1 + 2) + (3 + 4) + (3 + 4 + 5)
  assert visible_scores(SEGMENT, ANSWER) == first + second


def test_visible_scores_are_those_of_a_loop_over_all_pairs():
  places = hh_like_rows(2, 64, mean=20)
  total = 0
  for row in range(2):
    segment, answer = places["segment"][row], places["answer"][row]
    for i, j in itertools.product(range(64), repeat=2):
      same = segment[i] == segment[j] >= 0
      total += bool(same and j <= i and answer[j] in (-1, answer[i]))
  assert visible_scores(places["segment"], places["answer"]) == total


def test_weights_of_a_layer_are_its_matrices():
  params = jax.eval_shape(LanguageModel(SMOLLM2).init, jax.random.key(0))
  matrices = ("query", "key", "value", "output", "gate", "up", "down")
  assert layer_weights(SMOLLM2) * SMOLLM2.layers == sum(params["layers"][name].size for name in matrices)
  assert sum(x.size for x in jax.tree.leaves(params)) == 134_515_008  # SmolLM2-135M


def test_forward_operations_by_hand():
  # query 6x6, key and value 6x2, output 6x6, gate and up 6x5, down 5x6: 36 + 24 + 36 + 90 = 186
  found = forward_operations(CONFIG, tokens=10, visible=7, scored=3)
  assert found == {"products": 2 * 10 * 2 * 186, "attention": 4 * 7 * 2 * 3 * 2, "head": 2 * 3 * 6 * 11}


def test_a_step_is_four_forward_passes_with_a_live_reference_and_three_without():
  batch = both_forms(one_ranking(11, prompt=5, answer=2, answers=3))["shared"](0)
  forward = sum(forward_operations(CONFIG, **batch_counts(batch)).values())
  assert step_operations(CONFIG, batch, live_reference=True) == 4 * forward
  assert step_operations(CONFIG, batch, live_reference=False) == 3 * forward


def test_a_shared_prompt_counts_once_and_a_repeated_one_for_each_answer():
  forms = both_forms(one_ranking(100, prompt=50, answer=4, answers=3))
  shared, repeated = (batch_counts(forms[name](0)) for name in ("shared", "repeated"))
  prompt, answer = 50 * 51 // 2, 4 * 50 + 10
  assert shared == {"tokens": 50 + 12, "visible": prompt + 3 * answer, "scored": 12}
  assert repeated == {"tokens": 3 * 54, "visible": 3 * (prompt + answer), "scored": 12}
  assert forms["shared"].num_tokens(0) == forms["repeated"].num_tokens(0) == 3 * 54


def test_empty_places_and_slots_count_for_nothing():
  batch = filled_rows(2, 64, 100, 16, one_example=True)
  assert batch_counts(batch) == {"tokens": 128, "visible": 2 * 64 * 65 // 2, "scored": 32}
  batch.segment[1] = -1
  batch.answer_of[0, 5:] = batch.num_answers
  assert batch_counts(batch) == {"tokens": 64, "visible": 64 * 65 // 2, "scored": 16 + 5}


def test_attention_needs_two_products_forward_and_five_more_for_its_gradient():
  floor = attention_floor(visible=10, heads=3, width=4)
  assert floor["forward"] == dict(operations=2 * 2 * 4 * 3 * 10, exps=30)
  assert floor["gradient"] == dict(operations=7 * 2 * 4 * 3 * 10, exps=60)


def test_bytes_of_an_update():
  # read: p, m, v, g and g again for the norm; written: p, m, v
  assert update_bytes(1) == 4 * 8
  assert update_bytes(10, clipped=False) == 4 * 7 * 10
  assert update_bytes(1, moments=1) == 4 * 6
