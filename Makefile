# Everything works on a bare clone with python3 (>= 3.10) and make: the virtual environment is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
# The tests of a file stay together: they share what was made for them.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile

.PHONY: demo test test-slow test-all lint leaderboard clean

demo: $(VENV)/.run
	$(BIN)/python -m benchmark run --results $(DEMO)/results
	$(BIN)/python -m benchmark leaderboard --results $(DEMO)/results --output $(DEMO)/README.md

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) -m slow

test-all: test test-slow
	$(BIN)/python -m pytest -m "cluster or browser"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

leaderboard: $(VENV)/.run
	$(BIN)/python -m benchmark leaderboard

clean:
	rm -rf build $(VENV)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.run
