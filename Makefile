# slurmext: `make demo` and `make test` do all the set-up on a fresh Debian or Ubuntu machine.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
# The tests of one part, `slow` ones too: what `make test-PART` runs.
PARTS := slices ckpt models
TESTS_slices := tests/integration/test_*slice*_on_slurm.py tests/integration/test_two_boards_on_slurm.py tests/unit/agent/slices tests/unit/devices tests/unit/nvml tests/unit/mps \
	tests/unit/slices tests/contract/test_slice_driver.py tests/property/test_slice_laws.py tests/scenario/slices
TESTS_ckpt := $(foreach what,ranks copies transparent chain examples heterogeneous plain containers,tests/integration/test_$(what)_on_slurm.py) tests/unit/checkpoint
TESTS_models := $(foreach what,models preload model_faults,tests/integration/test_$(what)_on_slurm.py) tests/unit/staging \
	tests/unit/agent/staging tests/unit/models tests/property/test_multicast_laws.py
BENCHES := $(patsubst tests/benchmarks/bench_%.py,%,$(wildcard tests/benchmarks/bench_*.py))
# A Slurm that starts jobs as their users runs as root. Nothing root writes is left in a user's checkout.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || command -v sudo)
AS_ROOT := $(if $(SUDO),$(SUDO) env PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/slurmext-hypothesis)
PYTEST := $(AS_ROOT) $(PY) -m pytest $(if $(SUDO),-p no:cacheprovider)

# Two files at a time: tests on a Slurm wait for its clocks, others compute. Those that boot a Slurm come first.
BESIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup setup-test setup-all demo up down test test-all $(addprefix test-,$(PARTS)) test-rdma check generate docs bench clean $(addprefix bench-,$(BENCHES))

help:
	@echo "make demo        boot a real Slurm with simulated GPUs and watch reclaim, checkpoint and resume"
	@echo "make test        the tests that fit into minutes, on a real Slurm"
	@echo "make test-all    all of them: three Slurm releases, PostgreSQL, MariaDB"
	@echo "make test-slices, test-ckpt, test-models: all tests of one part"
	@echo "make test-rdma   models over real RDMA verbs, in a virtual machine with soft-RoCE; part of test-all"
	@echo "make check       style, types, architecture, generated files"
	@echo "make up          a devcluster to play with: sudo .venv/bin/slurmext devcluster shell"
	@echo "make down        ends it"
	@echo "make bench       every benchmark, into docs/benchmarks.md; one alone: $(addprefix bench-,$(BENCHES))"
	@echo "make docs        the documentation as a site in site/"
	@echo "make generate    what is generated from options, commands, policy keys and database"
	@echo "make clean       removes what these made here, .venv excepted"

setup:
	@scripts/bootstrap.sh demo
setup-test:
	@scripts/bootstrap.sh test
setup-all:
	@scripts/bootstrap.sh all

demo: setup
	@$(AS_ROOT) .venv/bin/slurmext demo

up: setup
	@$(AS_ROOT) .venv/bin/slurmext devcluster up
down:
	@$(AS_ROOT) .venv/bin/slurmext devcluster down

test: setup-test
	@$(PYTEST) -m "not slow" $(BESIDE)
test-all: setup-all
	@$(PYTEST)

$(addprefix test-,$(PARTS)): test-%: setup-all
	@$(PYTEST) $(BESIDE) $(TESTS_$*)

test-rdma: setup-all
	@$(PYTEST) -s tests/rdma

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
	$(AS_ROOT) $(PY) tests/benchmarks/run_all.py
$(addprefix bench-,$(BENCHES)): bench-%: setup-all
	$(AS_ROOT) $(PY) tests/benchmarks/bench_$*.py

clean:
	rm -rf site build dist slurmext.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
