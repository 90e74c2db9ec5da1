# One word a chore. Every chore first makes the checkout ready; that is instant when nothing is missing.
# Newest versions of what taskqueue depends on are in .venv, Debian 12's in .venv-oldest.
PYTHON = .venv/bin/python
OLDEST = .venv-oldest/bin/python

.PHONY: help setup demo test chaos check lint unit docs clean

help: ## show the chores
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 14

setup: ## install what is missing: Debian packages, system users, .venv, .venv-oldest
	@scripts/setup.sh

demo: setup ## see it work: digest some files through a broker, dispatcher and pool of its own
	@$(PYTHON) scripts/demo.py

test: setup lint ## style, types and every test, with the newest and with Debian 12's versions
	$(PYTHON) -m pytest
	$(OLDEST) -m pytest tests/unit tests/broker tests/process/test_daemon.py

chaos: setup ## count 20,000 workitems while everything is killed, cut and restarted: OPTIONS="--seed 7 --faults 300"
	PYTHONPATH=tests:scripts $(PYTHON) -m chaos $(OPTIONS)

check: setup lint unit ## what to run before a commit: style, types, unit tests

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

unit: setup
	$(PYTHON) -m pytest tests/unit

docs: setup ## write docs/configuration.md anew from taskqueue/configspec.ini
	$(PYTHON) -c 'from taskqueue.config import reference; print(reference(), end="")' >docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md

clean: ## remove everything that was made here
	rm -rf .venv .venv-oldest build dist *.egg-info examples/*/*.egg-info examples/*/build
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
