# `make` or `make help` lists the targets. Everything runs in .venv, which is rebuilt only when its ingredients change.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help env demo demo-compare test test-slow coverage lint docs wheel gate pretrain bench clean

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
	rm -rf $(VENV) .coverage .coverage.* .pytest_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
