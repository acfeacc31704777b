# Everything from a fresh clone. Needs make and Python 3.11 or newer, nothing else.

PYTHON ?= python3
# The development environment's versions. A CPU build of torch brings no Triton, a CUDA build brings its own.
TORCH := torch==2.13.0
TRITON := triton==3.9.0

# The newest versions of tox.ini, in an environment of their own. There is no CPU build of this torch: 6 GB.
NEWEST := torch==2.15.0
NEWEST_TRITON := triton==3.9.0
# The package's tests that a new torch breaks first, and that run within minutes.
FAST := library dispatch test_modules.py test_norm_modules.py models/test_counterparts.py test_cached_calls.py \
	launching test_plans.py test_head_plans.py test_public_names.py

# Python compiles what is imported, once: compiling all that is installed takes half of the installation, and without
# this, where the variable is set, each of the tests' many processes compiles what it imports anew.
INSTALL := -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NEWEST_VENV := .venv-newest
NEWEST_BIN := $(NEWEST_VENV)/bin
NEWEST_INSTALLED := $(NEWEST_VENV)/.installed

.PHONY: conform test newest lint matrix bench docs clean

conform: $(INSTALLED)  ## judge normkernels: the quick profile, on the GPU where there is one
	$(BIN)/conform run normkernels

test: lint  ## lint, types and all tests
	$(BIN)/python -m pytest -n auto

newest: $(NEWEST_INSTALLED)  ## the package's fast tests, and every kernel compiled, with the newest torch
	$(NEWEST_BIN)/python -m pytest -n auto $(FAST:%=conformance/package/%)
	$(NEWEST_BIN)/python -m conformance.package.codegen --target sm_90 --report build/newest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

matrix: $(INSTALLED)  ## the package's tests and the quick profile over torch versions
	$(BIN)/tox run

bench: $(INSTALLED)  ## judge and time everybody that is installed side by side, and draw it; means something on a GPU
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks draw build/benchmarks/results.json

docs: $(INSTALLED)  ## the documentation, in build/docs, whole each time: a warning is an error
	$(BIN)/sphinx-build --quiet --fresh-env --write-all --fail-on-warning --keep-going -c docs . build/docs

clean:
	rm -rf $(VENV) $(NEWEST_VENV) .tox build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer, got " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) $(TORCH)
	$(BIN)/python -m pip show --quiet triton 2>/dev/null || $(BIN)/python $(INSTALL) $(TRITON)
	$(BIN)/python $(INSTALL) --editable '.[conformance,dev,docs,models,bench]'
	@touch $@

$(NEWEST_INSTALLED): pyproject.toml Makefile
	$(PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_BIN)/python $(INSTALL) $(NEWEST) $(NEWEST_TRITON) --editable '.[conformance,models]'
	@touch $@
