# FLARE Sweeps. `make` alone lists the targets. Everything is installed in .venv, which this file owns.
SHELL  := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONFIG ?= config/config.yaml
CORES  ?= all
SAMPLE ?= 3
MINUTES ?= 60
SEED   ?= 0
ARGS   ?=

# The environment's programs come first; inline, because an exported PATH would also change which Python makes it.
IN := PATH="$(CURDIR)/.venv/bin:$$PATH"
# Every job starts a Python: without compiled modules each start is slower.
unexport PYTHONDONTWRITEBYTECODE
# The lock holds wheels of this platform; elsewhere pip takes the ranges of pyproject.toml.
LOCKED := Linux x86_64 3.11

.DEFAULT_GOAL := help
.PHONY: help setup check run report record paper-dry verify test quick mutants lint format docs lock clean

help: ## list the targets
	@echo "Usage: make TARGET [PYTHON=python3.11] [CONFIG=$(CONFIG)] [CORES=$(CORES)] [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

setup: .venv/.stamp ## install everything in .venv (Python 3.11 or newer); a finished one is left alone

# Before Snakemake, which says of a file that is missing or no text what its own reader makes of it.
check: setup ## check CONFIG and say how many runs it asks for; run nothing
	@$(IN) python -m flare check "$(CONFIG)"

run: check ## run the sweep of CONFIG on CORES cores, then show its tables and figures
	$(IN) snakemake --cores $(CORES) --configfile "$(CONFIG)" $(ARGS)
	@$(IN) python -m flare show "$(CONFIG)"

report: check ## run it, and write results/report.html: all of it as one page
	$(IN) snakemake report --cores $(CORES) --configfile "$(CONFIG)" $(ARGS)

# Nothing is trained: the runs are the record's. RECORD=NAME: one; else all.
record: setup ## make tables, figures, notebooks and report of the records in results/records again (RECORD=NAME: one)
	@$(IN) python -m flare restore $(RECORD)
	@for name in $(or $(RECORD),$(notdir $(patsubst %/record.json,%,$(wildcard results/records/*/record.json)))); do \
	    $(IN) snakemake --cores $(CORES) --configfile "results/$$name/config.yaml" $(ARGS) -- record || exit $$?; \
	    $(IN) python -m flare show "results/$$name/config.yaml" || exit $$?; done

paper-dry: setup ## plan the paper's full sweep; run nothing
	$(IN) snakemake --dry-run --quiet --configfile config/paper.yaml $(ARGS)

verify: check ## repeat SAMPLE random finished runs; they must give the same bits (ARGS=--seed 1: others)
	$(IN) python -m flare verify --config "$(CONFIG)" --sample $(SAMPLE) $(ARGS)

# All tests together reach at least 95 % of the lines; some of them, as ARGS says, need not.
test: setup ## run the tests (ARGS: pytest's, as ARGS="-m 'not workflow'")
	$(IN) python -m pytest $(if $(ARGS),$(ARGS),--durations=10 --cov=flare --cov-report=term:skip-covered --cov-fail-under=95)

# The tests that say most in a minute: settings, the engine against its oracle, partitions, claims, identity, the house.
QUICK := $(addprefix tests/, \
    config/test_config.py config/test_docs.py config/test_written.py \
    engine/test_draws.py engine/test_inputs.py engine/test_memory.py engine/test_network.py engine/test_oracle.py \
    engine/test_seams.py engine/test_selection.py engine/test_staleness.py \
    datasets/test_partition.py analysis/test_claims.py analysis/test_level.py analysis/test_overall.py \
    analysis/test_reached.py runs/test_identity.py house/test_imports.py house/test_site.py)

quick: setup ## run the tests that end within 90 seconds on two cores
	$(IN) python -m pytest $(QUICK) -m "not workflow" $(ARGS)

mutants: setup ## change one thing at a time, and see whether the tests do (MINUTES=60, SEED=0; ARGS=--hand: the list by hand)
	$(IN) python tools/mutants.py --minutes $(MINUTES) --seed $(SEED) $(ARGS)

lint: setup ## check style, types and the workflow; change nothing
	$(IN) ruff check
	$(IN) ruff format --check
	$(IN) mypy
	$(IN) snakefmt --check Snakefile workflow
	$(IN) snakemake --lint

format: setup ## rewrite Python and Snakemake files in the house style
	$(IN) ruff check --fix
	$(IN) ruff format
	$(IN) snakefmt Snakefile workflow

docs: setup ## write what follows from the code (schema, tables, picture), then the docs site in build/site
	$(IN) python tools/docs.py
	$(IN) NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

lock: setup ## write requirements.lock anew, keeping its versions where it can (ARGS=--upgrade: the newest)
	$(IN) python tools/lock.py $(ARGS)

clean: ## delete tables, figures, report and caches; never data, .venv, runs or tuning
	@for path in results/tables results/figures results/report.html build htmlcov .coverage \
	    .hypothesis .mypy_cache .pytest_cache .ruff_cache; do \
	    if [ -e "$$path" ]; then echo "deleting $$path"; rm -rf "$$path"; fi; done
	@echo "deleting __pycache__ folders"; find flare tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Another clone's environment, linked or copied to here, is neither used nor changed: its programs are that clone's.
.PHONY: .own
.own:
	@if [ -L .venv ]; then \
	    echo ".venv is a link, to an environment that is not this folder's; delete the link, and make setup makes one" >&2; exit 1; fi
	@if [ -f .venv/pyvenv.cfg ]; then \
	    made=$$(sed -n 's/^command = .* -m venv \(--[a-z-]* \)*//p' .venv/pyvenv.cfg); \
	    if [ -n "$$made" ] && [ "$$made" != "$(CURDIR)/.venv" ]; then \
	        echo ".venv was made for $$made and not for this folder; delete it, and make setup makes one" >&2; exit 1; fi; fi

# A missing stamp means that an earlier set-up was cut short: then .venv is made from nothing.
.venv/.stamp: requirements.lock pyproject.toml | .own
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed, and '$(PYTHON)' is none; say make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@if [ -e $@ ]; then rm $@; else "$(PYTHON)" -m venv --clear .venv; fi
	@echo "Installing in .venv: about 7 GB, some minutes"
	@if [ "$$(uname -sm) $$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$(LOCKED)" ]; then \
	    .venv/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock && \
	    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	else \
	    echo "requirements.lock is for $(LOCKED); here pip takes the ranges of pyproject.toml" && \
	    .venv/bin/python -m pip install --quiet -e '.[dev]'; \
	fi
	@.venv/bin/python -m pip check
	@touch $@
