# Each target sets up what it needs on a fresh machine: `make demo` and `make test` are all a newcomer types.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow score table lint

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[train,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/mvtrack demo --out outputs/demo

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(VENV)/bin/pytest -q -m "not slow and not gpu"

test-slow: $(STAMP)
	$(VENV)/bin/pytest -q -m slow

score: $(STAMP)
	$(RUN) eval/yardstick.py --out outputs/yardstick $(if $(FOOTAGE),--footage $(FOOTAGE))

table: $(STAMP)
	$(RUN) eval/table.py --out outputs/table
