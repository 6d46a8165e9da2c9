# Each target sets up what it needs: a virtual environment of its own in .venv, torch pinned first, then the rest.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
WORKERS ?= 2

.PHONY: help demo test semantics foreign check format bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

demo: $(READY) ## train a small vision transformer, compile it, check it, start it warm
	@$(BIN)/python examples/digits_vit.py

test: $(READY) ## the tests (about a quarter of an hour on two cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

semantics: $(READY) ## ways in which a compiler can be wrong: how many are compiled, and why others are not
	@$(BIN)/python tools/semantics.py $(ARGS)

foreign: $(READY) .foreign/.ready ## models that no one here wrote, beside eager: what was compiled of each, and why not all
	@PYTHONPATH=.:.foreign $(BIN)/python -m tools.foreign $(ARGS)

check: $(READY) ## lint, format, types, and the tree in figures
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python tools/figures.py

format: $(READY) ## apply the formatter and the safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## workloads beside eager and all compilers that are installed (half an hour; ARGS="gpt --quick")
	@$(BIN)/tracejit bench $(ARGS)

clean: ## remove the environment and what tools left behind
	rm -rf .venv .foreign build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@echo "[1/3] a virtual environment in .venv ($$($(PYTHON) --version))"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "[2/3] torch (some minutes the first time)"
	@$(PIP) install -c constraints.txt torch setuptools
	@echo "[3/3] tracejit and what its tests use"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

.foreign/.ready: tools/foreign/requirements.txt | $(READY)
	@echo "packages full of models into .foreign (once)"
	@$(PIP) install --no-deps --upgrade --target .foreign -r $<
	@touch $@
