# slurmext: `make demo` and `make test` do all the set-up on a fresh Debian or Ubuntu machine.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
BENCHES := $(patsubst tests/benchmarks/bench_%.py,%,$(wildcard tests/benchmarks/bench_*.py))

.PHONY: help setup setup-test setup-all demo up down test test-all check generate docs bench clean $(addprefix bench-,$(BENCHES))

help:
	@echo "make demo        boot a real Slurm with simulated GPUs and watch reclaim, checkpoint and resume"
	@echo "make test        the tests that fit into minutes, on a real Slurm"
	@echo "make test-all    all of them: three Slurm releases, PostgreSQL, MariaDB"
	@echo "make check       style, types, architecture, generated files"
	@echo "make up | down   a devcluster to play with: slurmext devcluster shell"
	@echo "make bench       every benchmark: $(addprefix bench-,$(BENCHES))"
	@echo "make docs        the documentation as a site in site/"

setup:
	@scripts/bootstrap.sh demo
setup-test:
	@scripts/bootstrap.sh test
setup-all:
	@scripts/bootstrap.sh all

demo: setup
	@if [ $$(id -u) -eq 0 ]; then .venv/bin/slurmext demo; else sudo .venv/bin/slurmext demo; fi

up: setup
	@if [ $$(id -u) -eq 0 ]; then .venv/bin/slurmext devcluster up; else sudo .venv/bin/slurmext devcluster up; fi
down:
	@if [ $$(id -u) -eq 0 ]; then .venv/bin/slurmext devcluster down; else sudo .venv/bin/slurmext devcluster down; fi

# Slurm starts jobs as their users, so the tests that use it need root; without it they are skipped and say so.
test: setup-test
	$(PY) -m pytest -m "not slow"
test-all: setup-all
	$(PY) -m pytest

check: setup-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright
	.venv/bin/lint-imports
	shellcheck scripts/*.sh prolog/* epilog/* .ci/run
	$(PY) -m slurmext.options generate --check
	$(PY) -m slurmext.docs generate --check
	$(PY) -m slurmext.adapters.sql.document --check

generate: setup-test
	$(PY) -m slurmext.options generate
	$(PY) -m slurmext.docs generate
	$(PY) -m slurmext.adapters.sql.document

docs: generate
	.venv/bin/mkdocs build --strict

bench: setup-all
	$(PY) tests/benchmarks/run_all.py
$(addprefix bench-,$(BENCHES)): bench-%: setup-all
	$(PY) tests/benchmarks/bench_$*.py

clean:
	rm -rf site build dist .pytest_cache .ruff_cache .hypothesis
