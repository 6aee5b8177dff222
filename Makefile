# Everything installs into .venv under constraints.txt. `make` alone lists the targets.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN_DEMO ?=

.PHONY: help setup demo test check lint types docs certify mutants bench experiments clean

help:
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

setup: $(VENV)/.installed ## make .venv and install the package with its tools

demo: setup ## train on real digits, draw samples, leave pictures in runs/demo
	$(BIN)/scorefield demo $(RUN_DEMO)

test: setup ## the fast test suite
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/basedpyright

docs: setup ## build the documentation into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint types docs ## lint, types and docs, as CI runs them before the tests

certify: setup ## the long certificates: kills, fuzzing, tables; results are committed
	$(BIN)/python benchmarks/certify.py

mutants: setup ## every listed error in the mathematics must be noticed by the tests; results are committed
	$(BIN)/python benchmarks/mutants.py

bench: setup ## the benchmarks, each printed as ratios in one run
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/sample_step.py
	$(BIN)/python benchmarks/objectives.py
	$(BIN)/python -m pip install --quiet --no-deps --target .peers --requirement benchmarks/peers.txt
	PYTHONPATH=.peers $(BIN)/python benchmarks/divergence.py
	PYTHONPATH=.peers $(BIN)/python benchmarks/samplers.py
	PYTHONPATH=.peers $(BIN)/python benchmarks/solvers.py
	PYTHONPATH=.peers $(BIN)/python benchmarks/likelihood.py
	PYTHONPATH=.peers $(BIN)/python benchmarks/guidance.py
	PYTHONPATH=.peers $(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/estimators.py
	$(BIN)/python benchmarks/kernel_estimators.py
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/tables.py --impute
	$(BIN)/python benchmarks/guidance_curve.py runs/demo

experiments: setup ## every figure of the theory, done where the sources changed; results are committed
	$(BIN)/python benchmarks/experiments.py

clean: ## remove what the build leaves behind (not runs/)
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache
