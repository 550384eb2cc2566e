"""Two real processes of one run: every entry refuses in one line, before it makes anything, and both end by themselves."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests.cli.tiny_model import TinyModel
from tests.training.runs import write_config

ROOT = pathlib.Path(__file__).parents[2]
REFUSAL = (
  "this run has 2 processes, and dpojax works in one for now: start it once (it uses every device of its machine)"
)
JOIN = """
import os
import jax

def join():
  address, number = os.environ["TEST_COORDINATOR"], int(os.environ["TEST_PROCESS"])
  jax.distributed.initialize(coordinator_address=address, num_processes=2, process_id=number)
"""
# Each command line in turn, then the doors from Python; one JSON object on the last line.
ENTRIES = """
import contextlib, io, json, sys
join()
from dpojax.cli.main import main
from dpojax.config.schema import ParallelSettings
from dpojax.errors import InputError
from dpojax.parallel import make_mesh
from dpojax.training.trainer import Trainer

said = {}
for arguments in json.loads(sys.argv[1]):
  with contextlib.redirect_stderr(io.StringIO()) as errors:
    code = main(arguments)
  said[arguments[0]] = [code, errors.getvalue()]
mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), devices=jax.local_devices())
doors = {
  "make_mesh": lambda: make_mesh(ParallelSettings()),
  "local devices": lambda: make_mesh(ParallelSettings(), jax.local_devices()),
  "Trainer": lambda: Trainer(None, None, {}, mesh=mesh),
}
for name, door in doors.items():
  try:
    door()
    said[name] = "nothing"
  except InputError as error:
    said[name] = str(error)
print(json.dumps(said))
"""


def in_two_processes(*arguments):
  """[(exit code, stdout, stderr)] of a Python command line started twice."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  variables = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "TEST_COORDINATOR": address}
  running = [
    subprocess.Popen(
      [sys.executable, *map(str, arguments)],
      env=variables | {"TEST_PROCESS": str(number)},
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]
  try:
    ended = [process.communicate(timeout=120) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, ended, strict=True)]
  finally:
    for process in running:
      process.kill()


@pytest.mark.slow
def test_the_command_says_one_line_and_leaves_no_folder(tmp_path):
  config = write_config(tmp_path, **{"train.steps": 2})
  config.write_text(JOIN + config.read_text().replace("  config = base()", "  join()\n  config = base()"))
  for code, out, errors in in_two_processes(
    "-m", "dpojax", "train", f"--config={config}", f"--workdir={tmp_path / 'run'}"
  ):
    assert (code, out) == (2, ""), errors
    assert [line for line in errors.splitlines() if "dpojax" in line] == [f"dpojax: error: {REFUSAL}"]
    assert "Traceback" not in errors
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_entry_refuses(tmp_path):
  config = write_config(tmp_path, **{"train.steps": 2})
  model = TinyModel(tmp_path / "tiny").path
  data = tmp_path / "not_read.jsonl"
  data.write_text("not JSON")
  commands = [
    ["train", f"--config={config}", f"--workdir={tmp_path / 'made'}"],
    ["sweep", f"--config={config}", f"--workdir={tmp_path / 'made'}", "--grid=loss.beta=0.1,0.2"],
    ["eval", f"--model={model}", f"--data={data}", "--score=sum", f"--out={tmp_path / 'made'}"],
    ["score", f"--model={model}", f"--data={data}", f"--out={tmp_path / 'made'}"],
    ["sample", f"--model={model}", "--prompt=is my parcel"],
  ]
  script = tmp_path / "entries.py"
  script.write_text(JOIN + ENTRIES)
  for code, out, errors in in_two_processes(script, json.dumps(commands)):
    assert code == 0, errors
    said = json.loads(out.splitlines()[-1])
    assert [said.pop(arguments[0]) for arguments in commands] == [[2, f"dpojax: error: {REFUSAL}\n"]] * 5
    assert set(said) == {"make_mesh", "local devices", "Trainer"} and set(said.values()) == {REFUSAL}
  assert not (tmp_path / "made").exists()
