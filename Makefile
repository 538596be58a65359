# Each target sets up what it needs on a fresh machine: `make demo` and `make test` are all a newcomer types.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
USED := $(VENV)/.installed
TESTED := $(VENV)/.installed-for-tests

.PHONY: demo test test-slow test-gpu score table lint

$(USED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable .
	touch $(USED)

$(TESTED): $(USED)
	$(RUN) -m pip install --quiet --editable '.[train,wan,dev]'
	touch $(TESTED)

demo: $(USED)
	$(VENV)/bin/mvtrack demo --out outputs/demo

lint: $(TESTED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(VENV)/bin/pytest -q -m "not slow and not gpu"

test-slow: $(TESTED)
	$(VENV)/bin/pytest -q -m slow

test-gpu: $(TESTED)
	$(VENV)/bin/pytest -q -m gpu

score: $(USED)
	$(RUN) eval/yardstick.py --out outputs/yardstick $(if $(FOOTAGE),--footage $(FOOTAGE))

table: $(TESTED)
	$(RUN) eval/table.py --out outputs/table
