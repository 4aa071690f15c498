# rasura: `make demo` shows what it does, `make test` shows that it works. Both set up everything they need.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
OUT    ?= runs/demo
TOOLS  := $(VENV)-tools
UV     := $(TOOLS)/bin/uv

.PHONY: help setup demo test test-slow test-faults fuzz check lowest lock audit-dependencies bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## virtual environment with pinned packages

# Every package is compared with its hash in the lock, but torch and torchvision: each index has wheels of its own of
# these (for the CPU, for every CUDA) under one version, so that no list of hashes fits them all.
$(VENV)/.ready: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup  ## train, forget, audit on embedded data; writes runs/demo/report.html
	$(BIN)/rasura demo --out $(OUT)

test: setup  ## the tests, without those marked slow
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadscope

test-slow: setup  ## all tests
	$(BIN)/python -m pytest -q -n 2 --dist loadscope

test-faults: setup  ## every command killed, run twice at once, cut from power, its files tampered with
	$(BIN)/python -m pytest -q -n 2 tests/test_killed.py tests/test_locked.py tests/test_power_cut.py tests/test_sealed.py

fuzz: setup  ## every reader of files against damaged ones, ten minutes each; FUZZ_SECONDS=… for another time
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -m pytest -q tests/fuzz -n 2

check: setup  ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

# torch is the pinned one here, too: the index has its older wheels with gigabytes of CUDA only.
LOWEST := files models strangers dependencies bench sources text rfa
lowest: $(TOOLS)/.ready  ## the tests that tell most, with the lowest versions that pyproject.toml allows
	mkdir -p build && grep '^torch' constraints.txt >build/torch.txt
	$(UV) pip compile --quiet --resolution lowest-direct --python $(PYTHON) --extra dev --constraint build/torch.txt \
		--no-emit-package torch --no-emit-package torchvision --output-file build/lowest.txt pyproject.toml
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/pip install --quiet --no-deps --requirement build/lowest.txt
	build/lowest/bin/pip install --quiet --constraint build/torch.txt torch torchvision
	build/lowest/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	build/lowest/bin/python -m pytest -q -m "not slow" -n 2 --dist loadscope \
		-o filterwarnings=default $(LOWEST:%=tests/test_%.py)

lock: $(TOOLS)/.ready  ## write requirements.lock anew: every package with the hashes of all its files
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--constraint constraints.txt --no-emit-package torch --no-emit-package torchvision \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

audit-dependencies: $(TOOLS)/.ready  ## ask the service of known holes about every version; needs the network
	$(UV) tool run pip-audit --no-deps --disable-pip --requirement requirements.lock
	$(UV) tool run pip-audit --no-deps --disable-pip --requirement constraints.txt

$(TOOLS)/.ready:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet uv==0.13.9
	touch $@

bench: setup  ## what we claim about speed, as JSON lines
	$(BIN)/python benchmarks/main_job.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(TOOLS) build dist .pytest_cache .ruff_cache .hypothesis
