"""A device that is asked for and missing, or there and not used, is one line that says what would be right."""

import logging
import os
import subprocess
import sys

import pytest

from dpojax.cli import devices
from dpojax.errors import ConfigError


def run(platforms, *arguments):
  environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
  return subprocess.run(
    [sys.executable, "-m", "dpojax", *arguments],
    capture_output=True,
    text=True,
    env=environment | ({"JAX_PLATFORMS": platforms} if platforms else {}),
  )


@pytest.fixture
def without_cuda(monkeypatch):
  monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "nosuch"])
def test_a_platform_that_is_not_here_is_one_line(tmp_path, platforms):
  if platforms == "cuda" and any(path.exists() for path in devices.NVIDIA):
    pytest.skip("this machine has a GPU")
  (tmp_path / "config.py").write_text(
    "from dpojax.config import base\n\n\ndef get_config():\n  config = base()\n  config.recipe = 'sft'\n"
    "  config.data.source = 'world'\n  config.data.name = 'complaint_desk'\n  config.train.steps = 1\n  return config\n"
  )
  ran = run(platforms, "train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
  assert ran.returncode == 2 and ran.stdout == ""
  (line,) = ran.stderr.splitlines()
  assert line.startswith(f"dpojax: error: JAX_PLATFORMS={platforms}: ") and line.endswith("or set it to cpu")
  assert ("no NVIDIA GPU" in line) == (platforms == "cuda")


def test_help_asks_for_no_device():
  assert run("cuda", "train", "--help").returncode == 0


def test_a_gpu_that_is_not_used_is_said_once(tmp_path, monkeypatch, capsys, without_cuda):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(devices, "NVIDIA", (tmp_path / "nvidiactl",))
  devices.check_devices()
  assert capsys.readouterr() == ("", "")
  (tmp_path / "nvidiactl").touch()
  devices.check_devices()
  out, err = capsys.readouterr()
  assert out == "" and len(err.splitlines()) == 1 and "pip install 'dpojax[cuda12]'" in err
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # it is meant
  devices.check_devices()
  assert capsys.readouterr() == ("", "")
  monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
  with pytest.raises(ConfigError, match=r"JAX_PLATFORMS=cuda,cpu: the JAX .* has no CUDA: pip install"):
    devices.check_devices()


def test_what_jax_says_of_devices_is_one_line_or_left_out(monkeypatch, capsys):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  devices.check_devices()
  jax = logging.getLogger("jax._src.xla_bridge")
  handler = logging.StreamHandler(sys.stderr)
  monkeypatch.setattr(jax, "handlers", [handler])
  monkeypatch.setattr(jax, "propagate", False)
  jax.warning(
    "An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. Falling back to cpu."
  )
  try:
    raise RuntimeError("cuInit failed\nand\nso on")
  except RuntimeError:
    jax.exception("Jax plugin configuration error: Exception when calling jax_plugins.xla_cuda12.initialize()")
  jax.warning("another")
  assert capsys.readouterr().err.splitlines() == [
    "Jax plugin configuration error: Exception when calling jax_plugins.xla_cuda12.initialize(): cuInit failed",
    "another",
  ]


def test_other_errors_are_not_those_of_devices():
  assert devices.of_devices(RuntimeError("something")) is None
  assert devices.of_devices(ValueError("Unable to initialize backend 'cuda': no")) is None
