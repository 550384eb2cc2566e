"""A run that starts from a model of the hub goes on with the commit that it began with, wherever the branch has moved."""

import json

import pytest
from safetensors.numpy import load, save

from dpojax.config.experiment import ALONE, Experiment
from dpojax.config.load import load_config
from dpojax.interop import hub
from dpojax.signals import StopRequested
from dpojax.sweeps.stages import overview, run
from dpojax.training.stage_record import read_record
from dpojax.training.trainer import Trainer
from tests.hub_server import folder_files, serving
from tests.training.runs import write_config


@pytest.mark.slow
def test_a_moved_branch_is_the_same_run_once_it_has_begun(tmp_path, monkeypatch, capsys):
  def stopped(*_, **__):
    raise StopRequested("SIGINT")
    yield

  def another_process():
    monkeypatch.setattr(hub, "_commits", {})

  def begun(folder):
    return read_record(folder).revisions

  monkeypatch.setattr(Trainer, "steps", stopped)
  path = "hub:org/tiny@main"
  config = load_config(str(write_config(tmp_path, **{"model.path": path, "monitor.prompts": 0})))
  files, folder = folder_files(tmp_path / "model"), tmp_path / "run"
  with serving() as server:
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    another_process()
    first = server.commit("org/tiny", files)
    overview(Experiment({ALONE: config}), {ALONE: folder})
    assert server.asked == []  # a dry run downloads nothing
    run(config, folder)
    assert begun(folder) == {path: first}
    assert first in (tmp_path / "run" / "stage.json").read_text()

    weights = {name: value * 2 for name, value in load(files["model.safetensors"]).items()}
    second = server.commit("org/tiny", files | {"model.safetensors": save(weights), "more.txt": b""})
    another_process()
    run(config, folder)  # it had taken no step, so it means what the branch means now
    assert begun(folder) == {path: second}
    assert "weights: changed" in capsys.readouterr().err

    with open(folder / "metrics.jsonl", "a") as metrics:
      metrics.write(json.dumps({"step": 1, "split": "train", "loss": 0.69, "skipped_in_row": 0}) + "\n")
    third = server.commit("org/tiny", files | {"more.txt": b"", "still_more.txt": b""})
    another_process()
    asked = len(server.asked)
    run(config, folder)
    assert begun(folder) == {path: second}
    assert len(server.asked) == asked  # what is in the cache needs no network
    another_process()
    run(config, tmp_path / "other")
    assert begun(tmp_path / "other") == {path: third}
