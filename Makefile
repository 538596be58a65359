# Each target sets up what it needs on a fresh machine: `make demo` and `make test` are all a newcomer types.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
USED := $(VENV)/.installed
TESTED := $(VENV)/.installed-for-tests
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -q -n $(WORKERS) --dist loadfile
# Folders whose results are numbers, which another processor's instructions round otherwise.
NUMERIC := $(addprefix tests/,correspondence data/synthetic geometry inference/full_resolution metrics models \
	tracking_head) --ignore-glob='*_end_to_end.py' --ignore-glob='*_from_files.py'

.PHONY: demo docs lint test test-portable test-slow test-gpu score table

$(USED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable .
	touch $(USED)

$(TESTED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --editable '.[train,wan,dev,docs]'
	touch $(USED) $(TESTED)

demo: $(USED)
	$(VENV)/bin/mvtrack demo --out outputs/demo

lint: $(TESTED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(TESTED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

test: lint
	$(PYTEST) -m "not slow and not gpu"

test-portable: $(TESTED)
	ATEN_CPU_CAPABILITY=default $(PYTEST) -m "not slow and not gpu" $(NUMERIC)

test-slow: $(TESTED)
	$(PYTEST) -m slow

test-gpu: $(TESTED)
	$(VENV)/bin/pytest -q -m gpu

score: $(USED)
	$(RUN) eval/yardstick.py --out outputs/yardstick $(if $(FOOTAGE),--footage $(FOOTAGE))

table: $(TESTED)
	$(RUN) eval/table.py --out outputs/table
