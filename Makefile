# make demo   trains GradMix and its baselines on Split-Digits
# make test   runs the tests
#
# Both create .venv first. Variables, given as `make test PYTHON=python3.12`:
#   PYTHON    the Python that .venv is made of (3.10 or newer)
#   PIP_ARGS  more arguments for pip, for instance for a PyTorch without CUDA (a smaller download):
#             PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple"
#   ARGS      more arguments for the program that the target runs

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
DEMO_OUT ?= runs/demo

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-check bench-results lint types docs build dist clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## train GradMix and its baselines on Split-Digits; table and plots in runs/demo
	$(BIN)/gradmix compare --out $(DEMO_OUT) --overwrite $(ARGS)

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

bench: $(STAMP) ## run the benchmarks as tests (.venv/bin/pip install -e .[bench] brings what they compare with)
	$(BIN)/python -m pytest benchmarks/ --benchmark-only --benchmark-enable $(ARGS)

bench-check: $(STAMP) ## measure again and fail if a committed ratio got more than 20 % worse
	$(BIN)/gradmix bench --quick --out runs/bench-check --check benchmarks/results $(ARGS)

bench-results: $(STAMP) ## measure everything that docs/benchmarks.md shows, which takes twenty minutes
	rm -f benchmarks/results/cpu/*
	$(BIN)/gradmix bench --out benchmarks/results/cpu $(ARGS)
	$(BIN)/gradmix bench scaling --out benchmarks/results/cpu $(ARGS)
	$(BIN)/python benchmarks/update_docs.py benchmarks/results/cpu

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types, and that those of the public names are complete
	$(BIN)/mypy
	$(BIN)/python .ci/public_types.py

docs: $(STAMP) ## write the documentation to site/; a broken link or reference is an error
	$(BIN)/python -m sphinx -q -E -W --keep-going docs site
	@echo "site/index.html"

build: $(STAMP) ## compile the kernels now instead of on first use
	$(BIN)/gradmix build $(ARGS)

dist: $(STAMP) ## make the sdist and the wheel, and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean: ## remove .venv, builds and caches (not runs/, not the compiled libraries in ~/.cache)
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -rf ./*.egg-info

# Installed once; again when what has to be installed changes.
$(STAMP): pyproject.toml setup.py
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not installed: install Python 3.10 or newer, or name one: make PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "gradmix_ext needs Python 3.10 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -e ".[dev]"
	@touch $@
