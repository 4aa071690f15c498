# rasura: `make demo` shows what it does, `make test` shows that it works. Both set up everything they need.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
OUT    ?= runs/demo

.PHONY: help setup demo test test-slow fuzz check bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## virtual environment with pinned packages

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup  ## train, forget, audit on embedded data; writes runs/demo/report.html
	$(BIN)/rasura demo --out $(OUT)

test: setup  ## the tests, without those marked slow
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadscope

test-slow: setup  ## all tests
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

fuzz: setup  ## every reader of files against damaged ones, ten minutes each; FUZZ_SECONDS=… for another time
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -m pytest -q tests/fuzz -n 2

check: setup  ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: setup  ## what we claim about speed, as JSON lines
	$(BIN)/python benchmarks/main_job.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
