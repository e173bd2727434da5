# The verbs of the project. `make demo` and `make test` need Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin

# Bytecode is written: without it every start of Dagster takes many seconds.
export PYTHONDONTWRITEBYTECODE =
export UV_PYTHON_DOWNLOADS = never

.PHONY: env demo up test chaos check format docs bench clean
.DEFAULT_GOAL := env

env: .venv/.made  ## build .venv from the lock

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; name another with: make env PYTHON=python3.12")'
	@$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.made: .uv/bin/uv pyproject.toml uv.lock
	@echo "installing the locked packages into .venv"
	@.uv/bin/uv sync --frozen --quiet --python $(PYTHON)
	@touch $@

demo: env  ## start everything, run the example pipelines, print what happened, stop
	@$(BIN)/python -m examples.demo

up: env  ## start everything and stay; web UI on 127.0.0.1:3000
	@$(BIN)/python -m examples.demo --stay

test: env  ## run the whole test suite
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: env  ## kill, suspend and crowd what runs, the long tests among them; CHAOS_EXECUTIONS and CHAOS_SEED set the storm
	@$(BIN)/python -m pytest -m "long or not long" $(ARGS) agent_pipelines_tests/e2e agent_pipelines_tests/chaos

check: env  ## format, lint, types, import direction
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@$(BIN)/python -m pytest -q agent_pipelines_tests/test_architecture.py

format: env  ## format and sort imports
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: env  ## run the commands and code of README and docs
	@$(BIN)/python -m pytest -q agent_pipelines_tests/docs

bench: env  ## run every benchmark
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:  ## remove what the other verbs made, but no records
	rm -rf .venv .uv .pytest_cache .ruff_cache
