PYTHON ?= python3
POSTGRES_VERSIONS ?= 11 12 13 14 15 16 17 18
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
CHAOS_ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup test test-matrix test-repack lint demo demo-ui chaos bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv, again only when pyproject.toml or constraints.txt change

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed, '$(PYTHON)' is not: make setup PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,docker,kubernetes,test]'
	@touch $@

test: setup ## Run the tests on real servers (PYTEST_ARGS="-k delete")
	$(BIN)/pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

test-matrix: setup ## Run the tests marked "matrix" on every PostgreSQL of POSTGRES_VERSIONS
	@set -e; for version in $(POSTGRES_VERSIONS); do \
		echo "PostgreSQL $$version"; \
		ARCHIVER_TEST_POSTGRES=$$version $(BIN)/pytest -n 2 -m matrix $(PYTEST_ARGS); \
	done

test-repack: setup ## Run the tests with a real pg_repack, out of Debian's packages unpacked below .cache
	$(BIN)/pytest $(PYTEST_ARGS) archiver_pipeline_tests/repack/with_repack.py

lint: setup ## Check style, types and the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: setup ## Archive an audit table on real servers started for it (DEMO_ARGS="--rows 1000000")
	$(BIN)/archiver demo $(DEMO_ARGS)

demo-ui: setup ## The same servers and data, in the Dagster UI
	$(BIN)/archiver demo --ui $(DEMO_ARGS)

chaos: setup ## Break things at random moments and account for every row (CHAOS_ARGS="--cases 2000")
	$(BIN)/python -m archiver_pipeline_tests.chaos $(CHAOS_ARGS)

bench: setup ## Measure speed and memory (BENCH_ARGS=...)
	$(BIN)/python benchmarks/archive.py $(BENCH_ARGS)

clean: ## Remove the environment and everything generated
	rm -rf .venv .cache .demo .dagster .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf *.egg-info .coverage .tmp_dagster_home_*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
