# Two commands matter: `make book` and `make test`. Both set up what they need, in .venv.
.DELETE_ON_ERROR:
.PHONY: help book test coverage setup serve lint format check-notebooks bench torture clean lock

PYTHON ?= python3
PROFILE ?= embedded
PORT ?= 8000
# Processes that test side by side; each computes in one thread.
TEST_WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# TORCH=cpu takes PyTorch's CPU build from PyTorch's own index, without several GB of CUDA libraries.
TORCH ?=
CUDA_OR_TORCH := ^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==
# Threads that spin while they wait make a busy machine many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

book: setup ## run the notebooks that changed and build the book (PROFILE=embedded)
	$(BIN)/sing run --profile $(PROFILE)
	$(BIN)/sing book --profile $(PROFILE)

test: setup ## run all tests (the pages of the book are tested where one was built)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

coverage: setup ## run all tests and list the lines that none of them reaches (half as slow again)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --cov=sing_utils --cov-report=term-missing:skip-covered

setup: $(VENV)/.ready ## make .venv with the exact versions of requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: %s is Python %s, expected 3.11 or newer: make PYTHON=python3.12 ..." % (sys.executable, sys.version.split()[0]))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
ifeq ($(TORCH),cpu)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --torch-backend=cpu \
	  $$(sed -nE 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements.lock) \
	  || { echo "make: PyTorch's index can't be reached, expected it for TORCH=cpu: leave TORCH=cpu out to take the stock build, with CUDA, from the package index."; exit 2; }
	awk '/^[a-z]/ { keep = !/$(CUDA_OR_TORCH)/ } keep' requirements.lock > $(VENV)/others.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --no-deps -r $(VENV)/others.lock
else ifeq ($(TORCH),)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
else
	$(error TORCH is $(TORCH), expected cpu, or nothing for the stock build)
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

serve: ## show the built book on http://127.0.0.1:8000 (PORT=8000)
	@test -f _build/html/index.html || { echo "there is no book yet: run make book"; exit 2; }
	@echo "http://127.0.0.1:$(PORT)   (Ctrl-C ends)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lint: setup ## ruff (lint and format), mypy, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-notebooks: setup ## no outputs, the method in sight, the parameters of the profile
	$(BIN)/python -m pytest -q tests/whole/test_notebooks.py -k "not alone and not own"

bench: setup ## compare speeds; prints ratios measured in one run
	$(BIN)/python -m tests.tools.bench
	$(BIN)/python -m tests.tools.bench_pages
	$(BIN)/python -m tests.tools.bench_extraction

torture: setup ## kill, damage and crowd feature stores; writes book/torture.md
	$(BIN)/python tests/tools/torture.py

lock: setup ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  --quiet --output-file requirements.lock

clean: ## remove everything that was built, also .venv
	rm -rf _build $(VENV) .pytest_cache .ruff_cache .mypy_cache .coverage .hypothesis
