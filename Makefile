# Two commands matter: `make demo` and `make test`. Each sets itself up; Python >= 3.11 and make are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo up test test-unit test-ports test-system test-faults test-long test-servicebus test-misbehaving test-selfhosted test-more test-all chaos crash-points mutation check format lock clean help

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.laptop   ## start everything here, index the handbook, ask, edit, ask again
	@$(BIN)/ragbus demo

up: $(VENV)/.laptop     ## start everything here and keep it running
	@$(BIN)/ragbus up

# Side by side, because most of the time they wait. Each process collects, and so imports, only what is its own.
LANES  := test-unit test-ports test-system test-faults
SYNC   := $(if $(filter output-sync,$(.FEATURES)),-Otarget)
PYTEST := $(BIN)/python -m pytest -q
test: $(VENV)/.dev      ## the tests, in minutes
	@echo "$(LANES), side by side; each reports when it is done ..."
	@$(MAKE) --no-print-directory -k -j4 $(SYNC) $(LANES)

test-unit: $(VENV)/.dev      ## of them: the pure parts and the wire format, in a minute
	@$(PYTEST) -m "not long" tests/unit tests/contracts tests/poison

test-ports: $(VENV)/.dev     ## of them: every adapter and stand-in against its port's promises
	@$(PYTEST) -m "not long" -n 2 tests/conformance tests/protocol tests/injection

# On a stack of their own: parts of it are killed, or replay what another test has left.
FAULTS := $(addprefix tests/system/test_,crash_points.py pulling_plugs.py replay.py stack_lifecycle.py)
test-system: $(VENV)/.dev    ## of them: the front door of the whole system
	@$(PYTEST) -m "not long" $(addprefix --ignore=,$(FAULTS)) tests/system

test-faults: $(VENV)/.dev    ## of them: killed parts, replays, start and stop of the whole system
	@$(PYTEST) -m "not long" $(FAULTS)

test-long: $(VENV)/.dev      ## what `make test` leaves out, because it takes longer
	@$(PYTEST) -m "long and not misbehaving" -n 3 tests/system

test-misbehaving: $(VENV)/.dev ## every known misbehaviour of a provider, through the whole system (N= of them, SEED=)
	@$(PYTEST) -m misbehaving $(if $(N),--sample $(N)) $(if $(SEED),--seed $(SEED)) tests/system/test_misbehaving_models.py

test-servicebus: $(VENV)/.dev ## all of servicebus-local's tests
	@$(MAKE) --no-print-directory -C servicebus-local test-all BIN=../$(BIN)

# The prerequisite may fail: then the tests are skipped, and say why. LONG=: only the smoke test.
LONG ?= 1
test-selfhosted: $(VENV)/.dev ## the whole system on llama.cpp's own server (260 MB of wheels, once; LONG= for a smoke test)
	@$(MAKE) --no-print-directory $(SELFHOSTED)/.ready || true
	@$(PYTEST) $(if $(LONG),,-m "not long") tests/selfhosted

test-more: $(VENV)/.dev      ## these two, side by side
	@$(MAKE) --no-print-directory -k -j2 $(SYNC) test-long test-servicebus

test-all: test test-more test-misbehaving ## every test but those of another's model server

# N: how many of them; SEED: the same ones again; ONLY: of this one. Each prints its seed.
SEEDED = $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))
chaos: $(VENV)/.dev          ## kill parts of the whole system at random, then check that nothing was lost (N=1000 requests, SEED=)
	@$(BIN)/python -m tests.chaos --requests $(or $(N),1000) $(if $(SEED),--seed $(SEED))

crash-points: $(VENV)/.dev   ## kill each worker at each of its effects, then check (N= points, SEED=, ONLY=service)
	@$(BIN)/python -m tests.crash_points $(if $(N),--points $(N)) $(SEEDED)

mutation: $(VENV)/.dev       ## break the code in small ways: does a test notice? (N= mutants, SEED=, ONLY=name or module)
	@$(BIN)/python -m tests.mutation $(if $(N),--sample $(N)) $(SEEDED)

check: $(VENV)/.dev     ## format, lint, layers, strict types, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory -C servicebus-local check BIN=../$(BIN)
	@$(BIN)/python -m ops.reference --check

format: $(VENV)/.dev    ## rewrite the code in house style
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ragbus needs Python 3.11 or newer; call make with PYTHON=python3.11 (or newer)")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.laptop: requirements/laptop.txt pyproject.toml servicebus-local/pyproject.toml | $(BIN)/python
	@echo "Setting up .venv (once) ..."
	@$(PIP) install --only-binary :all: --require-hashes -r requirements/laptop.txt
	@$(PIP) install --no-deps --no-build-isolation -e . -e ./servicebus-local
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.laptop
	@$(PIP) install --only-binary :all: --require-hashes -r requirements/dev.txt
	@touch $@

# llama.cpp and its weights, apart from everything that is ours. `lacks`: why they are not here.
SELFHOSTED := .venv-selfhosted
$(SELFHOSTED)/.ready: requirements/selfhosted.txt
	@$(PYTHON) -m venv $(SELFHOSTED)
	@echo "Setting up $(SELFHOSTED) (once) ..."
	@$(SELFHOSTED)/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: --require-hashes \
		-r requirements/selfhosted.txt 2>$(SELFHOSTED)/lacks || { cat $(SELFHOSTED)/lacks; false; }
	@touch $@

# Needs uv (https://docs.astral.sh/uv/). Hashes, but no index address, go into the locks.
lock:            ## resolve the locks anew from pyproject.toml
	@sh requirements/lock.sh

clean:           ## forget the virtual environment and the laptop's data
	@rm -rf $(VENV) $(SELFHOSTED) .ragbus
