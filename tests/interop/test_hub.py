"""Models of the hub by name, read from a stand-in on this machine and pushed to it."""

import numpy as np
import pytest

from dpojax.errors import WeightsError
from dpojax.interop import hub
from dpojax.interop.files import find_model_files
from dpojax.training.model_files import load, load_critic
from tests.hub_server import folder_files, serving
from tests.training.runs import write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def served(tiny, tmp_path, monkeypatch):
  """A hub that has the tiny model, beside what is of no use to us; its cache is empty and nobody is logged in."""
  with serving() as server:
    extra = {"pytorch_model.bin": b"torch", "onnx/model.safetensors": b"x", "README.md": b"# Tiny"}
    server.commit("org/tiny", folder_files(tiny) | extra)
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
      monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub, "_commits", {})
    yield server


def failing(path):
  with pytest.raises(WeightsError) as caught:
    find_model_files(path)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_a_name_is_the_model_and_brings_nothing_else(served, tiny, capsys):
  loaded, expected = load("hub:org/tiny"), load(tiny)
  assert loaded.model.config == expected.model.config and loaded.digest == expected.digest
  np.testing.assert_array_equal(loaded.params["embed"], expected.params["embed"])
  assert {path.name for path in find_model_files("hub:org/tiny").iterdir()} == set(folder_files(tiny))
  said = capsys.readouterr().err.splitlines()
  assert said == ["hub:org/tiny: downloading from the hub", f"hub:org/tiny: commit {served.refs['org/tiny']['main']}"]
  downloads = [path for method, path in served.asked if method == "GET" and "resolve" in path]
  assert not [path for path in downloads if path.endswith((".bin", ".md")) or "onnx" in path]


def test_a_name_means_one_commit_in_a_process_and_where_it_is_pinned(served, tiny, monkeypatch):
  first = served.refs["org/tiny"]["main"]
  assert hub.commit("hub:org/tiny") == first
  second = served.commit("org/tiny", folder_files(tiny) | {"notes.txt": b"new"})
  assert hub.commit("hub:org/tiny") == first
  assert hub.commit(f"hub:org/tiny@{second}") == second
  monkeypatch.setattr(hub, "_commits", {})  # as in the next process
  with hub.pinned({"hub:org/tiny": first}) as pins:
    assert hub.commit("hub:org/tiny") == first
    assert hub.commit("hub:org/tiny@main") == second
    assert hub.resolved() == pins == {"hub:org/tiny": first, "hub:org/tiny@main": second}
  monkeypatch.setattr(hub, "_commits", {})
  assert hub.commit("hub:org/tiny") == second


def test_a_pinned_commit_that_is_cached_needs_no_network(served, monkeypatch):
  first = hub.commit("hub:org/tiny")
  asked = len(served.asked)
  monkeypatch.setattr(hub, "_commits", {})
  with hub.pinned({"hub:org/tiny": first}):
    hub.snapshot("hub:org/tiny")
  assert hub.commit(f"hub:org/tiny@{first}") == first
  assert len(served.asked) == asked


def test_without_network_the_copy_in_the_cache_is_used_and_said(served, monkeypatch, capsys):
  first = hub.commit("hub:org/tiny")
  monkeypatch.setattr(hub, "_commits", {})
  served.down = True
  capsys.readouterr()
  assert hub.commit("hub:org/tiny") == first
  said = capsys.readouterr().err
  assert said == f"hub:org/tiny: the hub cannot be reached, so the copy in the cache is used (commit {first[:12]})\n"


def test_a_download_that_was_interrupted_goes_on(served, tiny, monkeypatch):
  folder = hub.snapshot("hub:org/tiny")
  monkeypatch.setattr(hub, "_commits", {})
  (folder / "model.safetensors").unlink()  # the link; the file itself stays, as after a kill between the two
  assert (hub.snapshot("hub:org/tiny") / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_errors_say_what_would_be_right(served, tiny, monkeypatch):
  assert failing("hub:org/none") == (
    "hub:org/none: there is no such repository on the hub, or it is private; mend the name, or log in with `hf auth login`, "
    "or set HF_TOKEN"
  )
  assert failing("hub:org/tiny@v2") == "hub:org/tiny@v2: there is no revision 'v2'; there is main"
  for path in ("hub:", "hub:a/b/c", "hub:org/tiny@", "hub:../../x y"):
    assert failing(path) == f"{path}: no name of the hub; write hub:OWNER/NAME or hub:OWNER/NAME@REVISION"
  served.commit("org/torch", {"config.json": b"{}", "pytorch_model.bin": b"x"})
  assert failing("hub:org/torch").startswith("hub:org/torch: holds no .safetensors file, and weights of torch")
  served.commit("org/gated", folder_files(tiny))
  served.gated.add("org/gated")
  assert failing("hub:org/gated") == (
    "hub:org/gated: it is gated: accept its terms on its page, https://huggingface.co/org/gated, then log in with "
    "`hf auth login`, or set HF_TOKEN"
  )
  served.down = True
  assert failing("hub:org/other").startswith(
    "hub:org/other: the hub cannot be reached, and the cache has no copy of it"
  )
  monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
  assert failing("hub:org/another").startswith("hub:org/another: the hub cannot be reached, and the cache has no copy")


def test_a_reward_model_or_critic_may_be_of_the_hub(served):
  with pytest.raises(Exception, match="there is no critic"):
    load_critic("hub:org/tiny")


def test_what_is_pushed_is_what_is_read(served, tiny, monkeypatch):
  monkeypatch.setenv("HF_TOKEN", served.token)
  url = hub.push(tiny, "me/mine@trial", private=True, message="Trial")
  assert url.startswith(f"{served.endpoint}/me/mine/commit/")
  assert served.files("me/mine", "trial") == folder_files(tiny)
  assert served.files("me/mine", "main") == {}
  assert served.private == {"me/mine"} and served.messages == ["Trial"]
  assert any(method == "PUT" for method, _ in served.asked)  # weights go by way of large files
  assert load("hub:me/mine@trial").digest == load(tiny).digest
  hub.push(tiny, "org/tiny", message="Again")
  assert "README.md" in served.files("org/tiny")  # what others have put there stays


def test_a_push_without_a_token_or_with_a_wrong_one_is_one_line(served, tiny, monkeypatch):
  with pytest.raises(WeightsError) as caught:
    hub.check_push("me/mine")
  assert str(caught.value) == (
    "--push=me/mine: there is no token of the hub; log in with `hf auth login`, or set HF_TOKEN to one that may write"
  )
  monkeypatch.setenv("HF_TOKEN", "hf_wrong")
  hub.check_push("me/mine")
  with pytest.raises(WeightsError) as caught:
    hub.push(tiny, "me/mine", message="")
  assert str(caught.value).startswith("--push=me/mine: the hub refuses it (401)")


def test_a_push_that_finds_no_network_says_so(served, tiny, monkeypatch):
  monkeypatch.setenv("HF_TOKEN", served.token)
  monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
  with pytest.raises(
    WeightsError, match=r"^--push=me/mine: the hub cannot be reached \(.*\); see to the network, and push again$"
  ):
    hub.push(tiny, "me/mine", message="")
