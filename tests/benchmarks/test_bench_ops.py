"""The numerics' benchmarks on shapes so small that they take seconds: every figure is there and shown."""

import pytest

from benchmarks import ops, scaling
from tests.training.tiny import CONFIG


@pytest.fixture
def bench(monkeypatch):
  monkeypatch.setattr(ops, "product_rate", lambda *given: 1e9)
  return ops.Bench(["float32"], repeats=1, clock="wall")


@pytest.mark.slow
def test_the_heads_floor_is_all_of_its_pieces(bench):
  found = ops.head(bench, number=16, width=4, words=40, chunk=8)["head_pieces_ms"]["float32"]
  assert len(found) == 6
  names = [row["name"] for row in bench.rows]
  assert names == ["chunks of 4, float32", "chunks of 8, float32", "chunks of 16, float32", "plain, float32"]
  for row in bench.rows:  # two chunks, whatever the variant's own are
    assert row["floor"] * 1e3 == pytest.approx(sum(found.values()))
  assert [row["goal"] for row in bench.rows] == [None, 1.3, None, None]


@pytest.mark.slow
def test_the_update_is_timed_beside_a_copy(bench, monkeypatch):
  monkeypatch.setattr(ops, "copy_bandwidth", lambda repeats: 1e9)
  assert ops.optimizer(bench, CONFIG) == {"copy_gb_per_second": 1.0}
  adamw, rmsprop = bench.rows
  assert adamw["floor"] / rmsprop["floor"] == pytest.approx(8 / 6)
  assert adamw["seconds"] > 0
  found = dict(rate=bench.rate, clock="wall", repeats=1, rows=bench.rows, copy_gb_per_second=1.0)
  assert "Copy: 1.0 GB/s" in ops.summary(found) and "| adamw |" in ops.summary(found)


@pytest.mark.long
def test_growth_measures_every_length_and_vocabulary(monkeypatch):
  monkeypatch.setattr(scaling, "SMOLLM2", CONFIG)
  monkeypatch.setattr(scaling, "LENGTHS", (64,))
  monkeypatch.setattr(scaling, "WORDS", (50, 100))
  monkeypatch.setattr(scaling, "SLOTS", 8)
  found = scaling.growth("float32", 1, "wall")
  assert [(row["kind"], row["length"]) for row in found["length"]] == [
    (kind, length) for kind in ("examples of about 190 tokens", "one example a row") for length in (64,)
  ]
  few, many = found["words"]
  assert many["parameters_mb"] - few["parameters_mb"] == pytest.approx(50 * CONFIG.hidden * 4 / 1e6)
  assert all(row["peak_mb"] >= row["parameters_mb"] for row in (*found["length"], few, many))
  assert "| 100 |" in scaling.growth_tables(found)
