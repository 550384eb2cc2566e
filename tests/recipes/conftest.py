"""Every run of these tests writes metrics that have an entry in the table of metrics."""

import pytest

from dpojax.metrics import METRICS, metric_named
from dpojax.training.runlog import RunLog

SPLITS = {split for metric in METRICS.values() for split in metric.splits}


@pytest.fixture(autouse=True, scope="module")
def metrics_have_an_entry():
  """Recording a metric that `dpojax.metrics` does not know, in that split, is an AssertionError."""
  record = RunLog.record

  def checked(self, step, split, metrics):
    if split in SPLITS:  # others are of monitors that a test makes
      unknown = [name for name in metrics if (found := metric_named(name)) is None or split not in found.splits]
      assert not unknown, f"give these of split {split} an entry in dpojax/metrics.py: {unknown}"
    record(self, step, split, metrics)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(RunLog, "record", checked)
    yield
