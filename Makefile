# Every target works from a fresh clone: it makes .venv and installs into it what it needs.
PYTHON ?= python3
# Extras that tests install: on Linux with what proves GPU kernels without a GPU (Triton, CuPy: half a gigabyte to fetch).
# `make test EXTRAS=test,judges,gpu-proof,recipes` adds the suites of PyTorch and ONNX, and the recipes' data.
comma := ,
EXTRAS ?= test$(if $(filter Linux,$(shell uname -s)),$(comma)gpu-proof)
INSTALLED := .venv/installed-$(EXTRAS)
RUN := .venv/bin/python
# A file at a time in each of a few processes, which share the cores: threads that wait for the next loop shall sleep.
TEST := OMP_WAIT_POLICY=passive $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: help train test test-quick lint format bench gpu clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

train: .venv/installed-base  ## train a network on real handwritten digits: a minute or so, seconds once kernels are compiled
	@.venv/bin/ranvier train digits

test: $(INSTALLED)  ## all tests (EXTRAS=test,judges,gpu-proof,recipes: PyTorch's, ONNX's and the recipes' data too)
	$(TEST)

test-quick: $(INSTALLED)  ## the quick part, about two minutes
	$(TEST) -m "not slow and not judge"

lint: .venv/installed-test  ## ruff: style and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: .venv/installed-test  ## let ruff mend what it can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: .venv/installed-bench  ## against PyTorch, row by row: 6 minutes (BENCH=--quick: half a minute; BENCH="lstm conv2d": those)
	@.venv/bin/ranvier bench $(BENCH)

# `make gpu RUN=python3` takes that interpreter as it is, with CuPy, Triton, numba-cuda and pytest, and installs nothing.
ifeq ($(RUN),.venv/bin/python)
gpu: .venv/installed-test,cuda13
endif
gpu:  ## on a machine with an NVIDIA GPU: right, then fast, part by part (PARTS="training parity"; PARTS=--list)
	$(RUN) tests/on_gpu.py $(PARTS)

clean:  ## remove compiled kernels and caches
	find kernels layers train profiling ranvier tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-base: .venv/bin/python pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-%: .venv/bin/python pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@ .venv/installed-base
