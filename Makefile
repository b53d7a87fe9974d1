# Two commands: `make run` shows the whole thing, `make test` checks it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
LOCKED := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--override $(VENV)/without-torch.txt

WORKERS ?= 2

.PHONY: run test test-clocks lint types check lock mutants clean help
help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

run: $(VENV)/.installed  ## install, simulate a shop, process, serve, show what happened
	$(BIN)/synchrochain run

test: $(VENV)/.installed-dev  ## install and run the tests, in WORKERS processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-clocks: $(VENV)/.installed-dev  ## tests that know the time, at awkward times (faketime)
	tests/at_awkward_times $(BIN)/python -n $(WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## types, strict
	$(BIN)/mypy

check: lint types test  ## everything that CI checks

mutants: $(VENV)/.installed-dev  ## mutate a sample of the critical modules: what does no test notice? (an hour)
	$(BIN)/python -m pip install --quiet 'mutmut==3.8.1'
	$(BIN)/python tests/mutants.py

$(VENV)/.installed: requirements.lock requirements-torch.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make run PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet -r requirements-torch.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-dev.lock
	touch $@

lock: $(VENV)/.installed-dev  ## resolve the dependencies anew
	$(BIN)/python -m pip install --quiet uv
	echo 'torch==2.13.0 ; sys_platform == "never"' > $(VENV)/without-torch.txt
	$(BIN)/uv pip compile pyproject.toml --extra models $(LOCKED) --upgrade -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra models --extra dev $(LOCKED) \
		-c requirements.lock -o requirements-dev.lock

clean:  ## remove the environment and caches, keep the data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
