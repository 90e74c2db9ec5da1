# One word a chore. Every chore first makes the checkout ready; that is instant when nothing is missing.
# Newest versions of what taskqueue depends on are in .venv, Debian's (at least 12's) in .venv-oldest, the peers in .venv-bench.
PYTHON = .venv/bin/python
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=CI)

# Kept byte code saves each process that is started the time to compile it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test suite failed test-trixie test-debian chaos check lint unit bench pictures docs deb clean

help: ## show the chores
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

setup: ## install what is missing: Debian packages, system users, .venv, .venv-oldest
	@scripts/setup.sh

demo: setup ## see it work: digest some files through a broker, dispatcher and pool of its own
	@$(PYTHON) scripts/demo.py

# Each process has a broker and databases of its own, and waits more than half of its time.
WORKERS = $(shell n=$$(($$(nproc) * 2)); [ $$n -le 16 ] || n=16; echo $$n)
# Files with long tests begin first, so that no process waits for the last of them.
IN_PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The environment that the tests run in; .venv-oldest is the other one.
VENV = .venv
test: lint suite ## style, types and every test: VENV=.venv-oldest, OPTIONS="--rabbitmq 4.0", WORKERS=3

suite: setup ## every test, without style and types
	$(VENV)/bin/python -m pytest $(IN_PARALLEL) $(OPTIONS)

failed: setup ## the tests that failed in the last run, one after the other
	$(VENV)/bin/python -m pytest --last-failed --last-failed-no-failures none --maxfail 1 $(OPTIONS)

chaos: setup ## count 20,000 workitems while everything is killed, cut and restarted: OPTIONS="--seed 7 --faults 300"
	PYTHONPATH=tests:scripts $(PYTHON) -m chaos $(OPTIONS)

# COMMAND="make unit" runs that.
COMMAND = make demo test
test-trixie: setup ## the same and make demo on a machine of its own with Debian 13: its Python, its RabbitMQ
	@scripts/setup.sh debootstrap iproute2
	$(AS_ROOT) env PYTHONPATH=tests:scripts $(PYTHON) scripts/debian13.py '$(COMMAND)'

# Root makes the machines. ONLY="-k bookworm tests/debian/test_chroot.py" runs less.
ONLY = tests/debian
test-debian: setup ## build the packages, install them on new machines and use them there, for Debian 12 and 13
	@scripts/setup.sh debootstrap iproute2
	$(AS_ROOT) $(PYTHON) -m pytest $(ONLY)

check: setup lint unit ## what to run before a commit: style, types, unit tests

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Half of the work each: that costs less than what hands each test to the next process that is free.
unit: setup
	@$(MAKE) --no-print-directory -j 2 --output-sync unit-a-e unit-f-z

# Their files are in memory where that is possible: they are synced a thousand times.
unit-%:
	if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi; \
	$(PYTHON) -m pytest -q -p no:xdist -o tmp_path_retention_policy=failed tests/unit/test_[$*]*.py

bench: ## measure it beside its peers and bare pika, three quarters of an hour; BENCH="--quick --only drain" for less
	@scripts/setup.sh bench
	@.venv-bench/bin/python -m benchmarks $(BENCH)

# PICTURES=/tmp/pictures writes them elsewhere.
PICTURES = docs/pictures
pictures: setup ## make the pictures of the documentation anew, in Chromium
	@scripts/setup.sh clients
	@PYTHONPATH=tests:scripts $(PYTHON) scripts/pictures.py $(PICTURES)

docs: setup ## write docs/configuration.md anew from taskqueue/configspec.ini
	PYTHONPATH=. $(PYTHON) scripts/reference.py >docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md

deb: ## build the Debian packages, and that of the example plugin, into dist/
	@scripts/deb.sh

clean: ## remove everything that was made here
	rm -rf .venv .venv-oldest .venv-bench .clients build dist *.egg-info examples/*/*.egg-info examples/*/build
	-git clean -fdXq debian examples # what dpkg-buildpackage leaves
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
