# Every target that needs Python makes its own venv when it is not there; nothing has to be prepared.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CONFIG ?= config.yaml
# Not `?=`: what others mean by PORT in the environment is not meant for the demo.
PORT := 8000
PREFIX ?= /opt/dmap
UNITDIR ?= /etc/systemd/system
SERVICE := DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' UNITDIR='$(UNITDIR)' PYTHON='$(PYTHON)' EXTRAS='$(EXTRAS)'
BOUNDED := timeout --kill-after=60 3600

# Some hundred tests start a program of ours; without a cache each compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo demo-lmstudio run test test-deps lint types check soak mutants bench fmt dist clean install-service uninstall-service

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(VENV)/.engine: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[engine]'
	touch $@

$(VENV)/.all: $(VENV)/.engine
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@

demo: $(VENV)/.engine ## two tiny real models behind one door, on http://127.0.0.1:8000 (PORT=8000)
	$(BIN)/dmap demo --port $(PORT)

demo-lmstudio: $(VENV)/.engine ## dmap in front of an emulated LM Studio, on the same port
	$(BIN)/python -m tests.demo_lmstudio --port $(PORT)

run: $(VENV)/.engine ## serve CONFIG (config.yaml)
	$(BIN)/dmap serve $(CONFIG)

test: $(VENV)/.all ## all tests, against real engines
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-deps: ## as root: the programs of Debian that some tests need; without them these are skipped
	tests/install_programs.sh

lint: $(VENV)/.all ## style and bug patterns
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.all ## strict type check
	$(BIN)/mypy

check: lint types test ## what CI runs

soak: $(VENV)/.all ## what takes long, minutes: campaigns against running daemons, the longest walks
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[attack]'
	$(BOUNDED) $(BIN)/python -m pytest -m soak
	$(BOUNDED) $(BIN)/python -m bench.attack
	$(BOUNDED) $(BIN)/python -m bench.fuzz --count 10000
	$(BOUNDED) $(BIN)/python -m bench.soak_lmstudio crowd --seconds 300 --pace 3
	$(BOUNDED) $(BIN)/python -m bench.soak_places --count 20
	$(BOUNDED) $(BIN)/python -m bench.soak_lmstudio kills
	$(BOUNDED) $(BIN)/python -m bench.soak_lmstudio hands
	$(BOUNDED) $(BIN)/python -m bench.soak_process servers
	$(BOUNDED) $(BIN)/python -m bench.soak_process dmap
	$(BOUNDED) $(BIN)/python -m bench.soak_redis --seconds 180
	$(BOUNDED) $(BIN)/python -m bench.soak_memory --count 600
	$(BOUNDED) $(BIN)/python -m bench.soak_nodes
	$(BOUNDED) $(BIN)/python -m bench.soak_fleet

mutants: $(VENV)/.all ## 300 faults of one line, and which of them the tests notice
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	$(BIN)/python bench/mutants.py

bench: $(VENV)/.all ## CPU per chunk and per request, against nginx and Go
	$(BIN)/python bench/run.py

fmt: $(VENV)/.all ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(VENV)/.all ## build the wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

install-service: ## a systemd service of this host, in PREFIX (/opt/dmap); see docs/service.md
	$(SERVICE) systemd/install.sh install

uninstall-service: ## take it away again; configuration and state stay
	$(SERVICE) systemd/install.sh uninstall

clean: ## remove what was made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/results
