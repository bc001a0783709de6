# `make` or `make help` lists the targets. Everything runs in .venv, which is rebuilt only when its ingredients change.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help env demo demo-compare test test-slow test-oldest test-newest coverage lint docs wheel gate pretrain bench clean

help:  ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [PIP_ARGS='--index-url ...']"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or newer is needed, found {sys.version.split()[0]}: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev,caption]'
	@touch $(READY)

env: $(READY)  ## create the environment in .venv (done by every other target when it is missing or out of date)

demo: $(READY)  ## prune the wider shipped model with MULTIFLOW at 90 %, fine-tune it on retrieval, test it (three to five minutes, no GPU)
	PATH="$(CURDIR)/$(BIN):$$PATH" vlp-bench run +exp=xvlm_itr pruner=multiflow sparsity=0.9

demo-compare: $(READY)  ## compare six pruners at three sparsities over three seeds, on the small model: a table and a plot (resumable)
	$(BIN)/vlp-bench compare +exp=xvlm_itr benchmark=mini

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest

test-slow: $(READY)  ## run the tests that take minutes as well
	$(BIN)/python -m pytest -m 'slow or not slow'

# The versions a user may meet: the oldest that pyproject.toml allows, and today's newest. Each has an environment of its own.
test-oldest:  ## run the tests with the oldest versions of pyproject.toml (.venv-oldest; gigabytes, since old torch comes with CUDA)
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	sed -nE 's/^    "([a-z0-9-]+)>=([0-9.]+).*/\1==\2/p' pyproject.toml > .venv-oldest/floors.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c .venv-oldest/floors.txt -e '.[dev,caption]'
	.venv-oldest/bin/python -m pytest -o filterwarnings=default

test-newest:  ## run the tests with the newest versions there are; what they call deprecated is an error (.venv-newest)
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --upgrade --upgrade-strategy eager -e '.[dev,caption]'
	.venv-newest/bin/python -m pytest

coverage: $(READY)  ## run the tests and say which lines they reach; build/coverage.xml for other tools
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=xml:build/coverage.xml

lint: $(READY)  ## check style, types and the import rules
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(READY)  ## build the documentation into build/site; a broken link is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/keys.py --check
	$(BIN)/python docs/tutorial.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(READY)  ## build dist/, install the wheel into an empty environment and rehearse the demo from an empty folder
	.ci/wheel

gate: $(READY)  ## print the acceptance gate of the shipped checkpoint: what the model has learnt, against its controls
	$(BIN)/vlp-bench gate

FIRST := outputs/pretrain/first
XVLM := outputs/pretrain/xvlm_shapes/xvlm_shapes.safetensors

pretrain: $(READY)  ## train the shipped XVLM and BLIP again from their seeds (three hours on two cores, minutes on a GPU)
	$(BIN)/vlp-bench pretrain --out $(FIRST)
	$(BIN)/vlp-bench pretrain --init $(FIRST)/xvlm_shapes.safetensors --steps 10000 --seed 1
	$(BIN)/vlp-bench pretrain --model blip --init $(XVLM) --steps 3000 --lr 5e-4 --seed 2

bench: $(READY)  ## measure whole calls beside programs anyone could have written, and compare with the stored rows (ten minutes)
	$(BIN)/python benchmarks/bench.py

clean:  ## remove the environment and every cache; results under outputs/ stay
	rm -rf $(VENV) .venv-oldest .venv-newest .coverage .coverage.* .pytest_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
