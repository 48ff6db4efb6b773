# One folder, .venv, holds everything; `make demo` and `make test` set it up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-full cluster faults check format settings requirements docs bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)  ## set up, and run the quick start to its end: tracked runs in mlflow.db
	$(BIN)/python -m suite.sweep search_spaces/quickstart.yaml

test: $(READY)  ## set up, and pass the tests (SUITE_CIFAR10, SUITE_TINYIMAGENET_WEIGHTS add those on real images)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-full: $(READY)  ## the tests with those that are too long for each commit
	SUITE_FAULTS=full $(BIN)/python -m pytest -n 2 --dist worksteal

cluster: $(READY)  ## as root: a cluster over ssh on hosts in namespaces, from ray up to ray down, with what gets lost (long)
	SUITE_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

faults: $(READY)  ## inject every fault of the matrix, some as root, and write reports/faults/ (long)
	SUITE_FAULTS=full $(BIN)/python -m pytest -n 3 --dist worksteal -m fault

check: $(READY)  ## lint, format, types, import directions, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy suite
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m suite.config.schema --check
	$(BIN)/python scripts/requirements.py --check

format: $(READY)  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

settings: $(READY)  ## write docs/settings.md and search_spaces/schema.json from the models
	$(BIN)/python -m suite.config.schema

requirements:  ## write requirements*.txt from pyproject.toml
	$(PYTHON) scripts/requirements.py

docs: $(READY)  ## build the documentation as a site, strictly: site/index.html
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(READY)  ## measure all briefly; in full each script alone: .venv/bin/python -m benchmarks.NAME
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	$(BIN)/python -m benchmarks

clean:  ## remove what sweeps and tools left in this folder, tracked runs included
	rm -rf runs mlflow.db mlflow.db-* mlartifacts mlruns replays reports/quickstart site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
