# make demo      set up and run the demonstration: the main job, on real mail (MAILS=path: on your own)
# make test      set up and run all tests (ARGS="-k name" for some of them, ARGS="-m long" for those left out of it)
# make simulate  play seeds of the simulation: SEEDS=n FROM=k (one alone is shown step by step)
# make campaign  kill senders and workers N times (1000), at named points and at any time, and account for every message
# make fuzz      give what reads the bytes of others any bytes, RUNS times, led by what they reach
# make soak      senders and workers under load, with a fault every few seconds, for MINUTES; draws what they used
# make mutants   plant bugs, and see that the simulation or the tests of the protocol find each
# make check     ruff, mypy --strict and pyright
# make fix       format, and mend what ruff can mend
# make bench     compare with raw pyzmq, and with nats-py where there is a nats-server (ARGS=--json for JSON lines)
# make figures   measure what the library is held to (ARGS="--only gone", --quick, --json)
# make docs      check that the links of the documents lead somewhere and that their programs compile
# make lock      choose the newest versions of everything again, and write them into requirements/
#
# Needs Python >= 3.11 and the package index, nothing else. PYTHON=… chooses the interpreter, VENV=… where it is set up.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
N ?= 1000
SEEDS ?= 1000
RUNS ?= 1000000
MINUTES ?= 10
FROM ?= 1
.DEFAULT_GOAL := help

.PHONY: help demo test simulate mutants campaign fuzz soak check fix bench figures docs lock clean

help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

# Two stages, so that who only looks at the demonstration need not wait for the tools of its developers.
$(VENV)/demo.ready: requirements/demo.lock requirements/install pyproject.toml
	@requirements/install $(VENV) demo
	@touch $@

$(VENV)/dev.ready: requirements/dev.lock requirements/install pyproject.toml
	@requirements/install $(VENV) dev
	@touch $(VENV)/demo.ready $@

# What only fuzz and soak need is not in the environment of the tests until they are asked for.
$(VENV)/fuzz.ready $(VENV)/soak.ready: $(VENV)/%.ready: requirements/%.lock $(VENV)/dev.ready
	@requirements/install $(VENV) $*
	@touch $@

# Nor is what zerowait is measured beside.
$(VENV)/bench.ready: requirements/bench.lock $(VENV)/demo.ready
	@requirements/install $(VENV) bench
	@touch $@

demo: $(VENV)/demo.ready
	@$(BIN)/python -m examples.totalemail demo $(ARGS)

test: $(VENV)/dev.ready
	@$(BIN)/python -m pytest $(ARGS)

campaign: $(VENV)/dev.ready
	@$(BIN)/python -m tests.faults.campaign -n $(N) $(ARGS)

simulate: $(VENV)/dev.ready
	@$(BIN)/python -m tests.simulation $(SEEDS) $(FROM)

fuzz: $(VENV)/fuzz.ready
	@$(BIN)/python -m tests.fuzz -n $(RUNS) $(ARGS)

soak: $(VENV)/soak.ready
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

mutants: $(VENV)/dev.ready
	@$(BIN)/python -m tests.mutants $(ARGS)

check: $(VENV)/dev.ready
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "zerowait: not formatted; run: make fix" >&2; exit 1; }
	@$(BIN)/mypy --strict
	@$(BIN)/pyright --pythonpath $(BIN)/python

fix: $(VENV)/dev.ready
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: $(VENV)/bench.ready
	@$(BIN)/python -m bench $(ARGS)

figures: $(VENV)/dev.ready
	@$(BIN)/python -m bench.figures $(ARGS)

docs: $(VENV)/dev.ready
	@$(BIN)/python -m pytest -q tests/unit/test_documents.py $(ARGS)

lock: $(VENV)/dev.ready
	@requirements/relock $(BIN)/python

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .soak
