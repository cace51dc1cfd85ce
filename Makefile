# `make` shows what there is. Everything happens in .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOR ?=
OPTIONS ?=

# Each module is compiled once, not by every process that the tests start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help browser demo test check bench campaign format lock clean

help: ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/development: requirements-dev.lock $(VENV)/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/runtime ## Set up and run the whole product on this machine (FOR=30s to end by itself)
	$(BIN)/connector demo $(if $(FOR),--for $(FOR))

browser: ## Chromium for the tests of the console, from Debian's packages where that is possible
	@command -v chromium >/dev/null \
	  || (test "$$(id -u)" = 0 && timeout 300 sh -c "apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends chromium" >/dev/null 2>&1) \
	  || echo "Chromium is not installed: the tests of the console in a browser are skipped"

test: $(VENV)/development check browser ## Set up and run every test
	$(BIN)/python -m pytest -n 4

check: $(VENV)/development ## Format, lint, types, imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/development ## Speed as ratios to a floor, written to bench/report.md (about 10 minutes)
	$(BIN)/python -m bench --report bench/report.md $(OPTIONS)

campaign: $(VENV)/development ## Long runs: many kills
	$(BIN)/python -m pytest -m campaign --timeout 3600 tests

format: $(VENV)/development ## Format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Pin what pyproject.toml asks for (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra dev --constraint requirements.lock pyproject.toml \
	  --output-file requirements-dev.lock

clean: ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
