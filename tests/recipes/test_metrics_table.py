"""The check of `conftest.py` sees a metric without an entry, and one in a split where its entry does not have it."""

import pytest

from dpojax.training.runlog import RunLog


def test_a_metric_without_an_entry_is_seen(tmp_path):
  with RunLog(tmp_path) as log:
    log.record(1, "train", {"loss": 0.5, "grad_norm": 1.0, "loss/dpo": 0.5})
    log.record(1, "norms", {"mine": 1.0})
    with pytest.raises(AssertionError, match=r"of split train an entry .*\['rewards/margin'\]"):
      log.record(2, "train", {"loss": 0.5, "rewards/margin": 0.1})
    with pytest.raises(AssertionError, match=r"of split eval an entry .*\['grad_norm'\]"):
      log.record(2, "eval", {"grad_norm": 1.0})
