# Two commands do all on a fresh machine: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
WORKERS ?= 2
# The end-to-end tests run whole meshes, whose processes keep two cores busy: more at a time would
# make them late, not fast.
E2E_WORKERS ?= 1

# What `make simulate` runs; one seed again: make simulate SEEDS=1 FROM=42
SEEDS ?= 20000
FROM ?= 0

# What `make faults` runs; more options: make faults FAULTS="--faults kill,cut --regions 5"
SECONDS ?= 20
SEED ?=
FAULTS ?=

.PHONY: help setup up down demo test lint unit e2e simulate faults generate breaking baseline format bench clean

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## Creates .venv with pinned, hashed dependencies

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Isthmus needs Python 3.11 or newer as '$(PYTHON)': apt-get install python3"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: apt-get install python3-venv"; exit 2; }
	@command -v setpriv >/dev/null || \
	  { echo "setpriv is missing: apt-get install util-linux"; exit 2; }
	@echo "Preparing $(VENV) (once, about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

up: $(READY) ## Runs all regions of mesh.yaml until Ctrl-C
	@$(VENV)/bin/isthmus up

down: $(READY) ## Stops what `make up` started
	@$(VENV)/bin/isthmus down

demo: $(READY) ## Runs the whole story in three regions and prints what it measured
	@$(VENV)/bin/isthmus demo

test: lint unit e2e ## Everything that must hold

lint: $(READY) ## Style, types, layers, contracts, generated code
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mesh.contracts.generate --check
	$(PY) -m mesh.contracts.table --check
	$(PY) -m mesh.cli.reference --check
	$(PY) -m mesh.compat.pages --check
	$(VENV)/bin/buf lint build/contracts.buf.binpb --config buf.yaml
	$(MAKE) --no-print-directory breaking
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

unit: $(READY) ## Pure tests and properties
	$(PY) -m pytest -n $(WORKERS) tests -m 'not e2e'

e2e: $(READY) ## Real processes: Envoy, SQLite, ffmpeg
	$(PY) -m pytest -n $(E2E_WORKERS) --dist loadfile --durations=30 tests -m e2e

simulate: $(READY) ## Many simulated worlds under faults: SEEDS=20000 FROM=0
	@$(PY) -m tests.simulation --seeds $(SEEDS) --from $(FROM)

faults: $(READY) ## Real regions under load and faults, judged by their clients: SECONDS=20 SEED=1
	@$(PY) -m tests.faults --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(FAULTS)

generate: $(READY) ## Writes gen/ and the generated docs from proto/
	$(PY) -m mesh.contracts.generate
	$(PY) -m mesh.contracts.table
	$(PY) -m mesh.cli.reference
	$(PY) -m mesh.compat.pages

breaking: $(READY) ## Asks the gate whether proto/ can run beside the contracts of the last release
	$(VENV)/bin/isthmus contracts check proto --against tests/compat/baseline.binpb --quiet

baseline: $(READY) ## At a release: makes today's contracts the ones to stay compatible with
	$(PY) -m mesh.contracts.generate --check
	cp build/contracts.buf.binpb tests/compat/baseline.binpb

format: $(READY) ## Formats the code
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(READY) ## Measures and writes build/bench/*.json
	$(PY) -m tests.bench

bench-%: $(READY)
	$(PY) -m tests.bench $*

clean: ## Removes what can be made again
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis
