# make demo: sets up everything and runs Noisy Student on real images.
# make test: sets up everything and passes the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-long test-servers check up down ui clean integration golden

setup: $(READY)

# pip older than 24 takes minutes to resolve what the constraints file pins. An existing environment that
# fits is kept; a changed pyproject or constraints file installs again. Without PYTHONWARNINGS an editable install
# ends in ten lines of setuptools' that read like a failure.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "noisy-student needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 2; }
	@echo "Setting up $(VENV): about 2 minutes the first time, then never again."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: setup
	@$(BIN)/noisy-student run digits

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not servers and not long"

# More of what smaller tests show: more kills, more ways to train on two processes, whole campaigns; 5 minutes more.
test-long: setup
	$(BIN)/python -m pytest -n 2 -m "long and not servers"

# Campaigns on PostgreSQL, S3, Prefect and MLflow: deployed, killed, cut off, and driven from a browser; 20 minutes more.
test-servers: setup
	$(BIN)/python -m pytest -m servers

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

integration: setup
	$(BIN)/python -m pytest tests/integration

# Rewrites the golden files; explain their diff in the commit, and bump the VERSION of the stage.
golden: setup
	$(BIN)/python -m tests.golden.regenerate

# PostgreSQL, S3, Prefect and MLflow on loopback; ARGS="--help" tells the options.
up: setup
	@$(BIN)/python -m flows.servers up $(ARGS)

down: setup
	@$(BIN)/python -m flows.servers down $(ARGS)

ui: setup
	@$(BIN)/noisy-student ui

clean:
	rm -rf $(VENV) .noisy-student build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
