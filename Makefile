# make demo | make test | make check | make fix | make bench; `make help` lists them all.
# Set-up is automatic: a virtual environment in .venv with every dependency pinned by constraints.txt.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where torch comes from. Empty: the default index. Elsewhere choose a CPU or CUDA wheel index by its address.
TORCH_INDEX_URL ?=
HOME_DIR ?= .relevo
DEMO_ARGS ?=
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fix bench bench-serving bench-swaps bench-overload chaos compose-test lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv and install everything (automatic for the other targets)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; install Python 3.11 or name one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $(STAMP)

demo: setup  ## replay a year of flights through the whole loop (KEEP=1 leaves the stack running)
	@$(BIN)/relevo demo --home $(HOME_DIR) $(if $(KEEP),--keep) $(DEMO_ARGS)

test: setup  ## unit, contract, integration, chaos (short) and end-to-end tests
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

check: setup  ## format, lint, types, import rules; never edits
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: setup  ## format and apply safe lint fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup  ## walk-forward retraining quality against gradient boosting
	@$(BIN)/python -m benchmarks.retraining

bench-serving: setup  ## serving's speed on one core, as a share of the bare HTTP server's (needs wrk)
	@$(BIN)/python -m benchmarks.serving

bench-swaps: setup  ## a thousand hot swaps under load: failed requests, wrong versions, p99, memory (needs wrk)
	@$(BIN)/python -m benchmarks.serving.swaps

bench-overload: setup  ## ten times the load that serving can take: goodput, refusals, memory, recovery (needs wrk)
	@$(BIN)/python -m benchmarks.serving.overload

chaos: setup  ## the long fault-injection runs
	@$(BIN)/python -m pytest tests/chaos $(PYTEST_ARGS)

compose-test: setup  ## bring docker-compose.yml up for real and run one cycle (needs a Docker engine)
	@PYTHON_BIN=$(BIN)/python deploy/compose-test

lock: setup  ## write constraints.txt from what is installed
	@{ echo "# Every dependency, pinned: pip install -c constraints.txt ...   (make lock renews it)"; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed "s/^\(torch==[0-9.]*\)+.*/\1/"; \
	   echo "async-timeout==5.0.1  # redis needs it before Python 3.11.3"; } > constraints.txt

clean:  ## remove the virtual environment and caches (never the data under .relevo)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build *.egg-info
