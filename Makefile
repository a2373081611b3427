# Each target builds what it needs in $(VENV) first. Nothing but Python >= 3.11 and make has to be there.
#
#   PYTHON=python3.12   the interpreter that $(VENV) is made with
#   ARGS='-k engine'    passed on to the program behind demo, test, bench and chaos

VENV ?= .venv
PEERS_VENV ?= .venv-peers
PYTHON ?=
ARGS ?=
# How the tests are shared out: to more processes than cores, because most tests wait, and for longer in test-all. A
# process that is idle takes over from another.
WORKERS = 7
TOGETHER ?= -n $(WORKERS) --dist worksteal
# Bytecode is kept, even if the environment forbids it: hundreds of started processes would compile djjp anew.
# The development mode is for its warnings: its checks of memory are for authors of C, and take a sixth of the time.
PYTEST = PYTHONDONTWRITEBYTECODE= PYTHONDEVMODE=1 PYTHONMALLOC=pymalloc PYTHONHASHSEED=0 $(BIN)/python -m pytest $(TOGETHER)

# Tried in this order, unless PYTHON says which. A suitable one is new enough and complete: some
# systems ship Python without venv's parts or without sqlite3.
PYTHONS = $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
SUITABLE = import sys; assert sys.version_info >= (3, 11); import ensurepip, sqlite3, ssl, venv

BIN = $(VENV)/bin
QUIETLY = -m pip --disable-pip-version-check --quiet
PIP = $(BIN)/python $(QUIETLY)

# For programs that load the tests' settings and run no test: they need no server, and leave nothing behind.
AT_REST = DJJP_TEST_HOME=$(abspath $(VENV)) DJJP_TEST_SERVER_URL=sqlite://:memory:

.NOTPARALLEL:
.PHONY: help venv demo demo-site test test-all test-long check fix lint types migrations messages docs package fixture
.PHONY: clean
.PHONY: test-browser screenshots chaos openapi bench bench-peers bench-scale bench-isolation

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

venv: $(VENV)/.installed-dev ## everything for working on djjp, in .venv
	@echo "$(VENV) is ready."

demo: $(VENV)/.installed-demo ## index Python's own library with jobs on a database of their own
	$(BIN)/python example_multidb/demo.py $(ARGS)

demo-site: $(VENV)/.installed-demo ## the same, then serve its admin
	$(BIN)/python example_multidb/demo.py --site $(ARGS)

test: WORKERS = 5
test: $(VENV)/.installed-test ## a test of each promise; the engine's on SQLite and PostgreSQL
	$(PYTEST) -m "not (end_to_end or long)" $(ARGS)

test-all: $(VENV)/.installed-browser ## also in a browser, pages of the docs, all on both databases, chaos
	$(PYTEST) -m "not long" $(ARGS)

test-long: $(VENV)/.installed-test ## benchmarks, crowds of 100,000 jobs, pages of the docs on PostgreSQL too
	$(PYTEST) -m long $(ARGS)

test-browser: $(VENV)/.installed-browser ## the pages of the admin in a browser
	$(PYTEST) tests/browser $(ARGS)

screenshots: $(VENV)/.installed-browser ## pictures of all pages of the admin, for the docs
	DJJP_PICTURES=docs/images $(PYTEST) tests/browser/test_pictures.py $(ARGS)

check: lint types migrations test ## what to run before a commit

fix: $(VENV)/.installed-dev ## ruff: repair what it can, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy, strict
	$(AT_REST) $(BIN)/mypy

migrations: $(VENV)/.installed-dev ## fail where a model has changed and no migration says so
	$(AT_REST) $(BIN)/python -m django makemigrations --check --dry-run --settings tests.project.settings

messages: $(VENV)/.installed-dev ## the translations of each language, from the sources; needs GNU gettext
	cd djjp && ../$(VENV)/bin/python -m django makemessages --all --no-location --no-wrap --no-obsolete
	cd djjp && ../$(VENV)/bin/python -m django compilemessages

docs: $(VENV)/.installed-docs ## the site of these docs, in docs/_build/html; each warning fails
	$(BIN)/python -m sphinx -E -n -W --keep-going -q -d docs/_build/doctrees $(ARGS) docs docs/_build/html
	@echo "The site is in docs/_build/html: open index.html."

package: $(VENV)/.installed-package ## wheel and sdist in dist/, checked, installed and run
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/python -m tests.installed

fixture: $(VENV)/.installed-test ## the tables of this version, filled, in tests/upgrade: for a release
	$(BIN)/python -m tests.upgrade

bench: $(VENV)/.installed-test ## the benchmarks; ARGS='--json' for a program's eyes
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(PEERS_VENV)/.installed ## djjp next to other queues, which it installs in .venv-peers
	$(PEERS_VENV)/bin/python -m benchmarks.peers $(ARGS)

bench-scale: $(VENV)/.installed-test ## what a queue of millions of jobs costs
	$(BIN)/python -m benchmarks.scale $(ARGS)

bench-isolation: $(VENV)/.installed-test ## what the queue costs the application's own writes
	$(BIN)/python -m benchmarks.isolation $(ARGS)

chaos: $(VENV)/.installed-test ## consumers die, databases go away: nothing lost, nothing run twice
	$(BIN)/python -m tests.chaos $(ARGS)

openapi: $(VENV)/.installed-dev ## schemathesis: requests made from the document of the HTTP interface
	$(BIN)/tox run -e openapi -- $(ARGS)

clean: ## remove what the targets here have made
	rm -rf docs/_build docs/project docs/reference
	rm -rf $(VENV) $(PEERS_VENV) .tox build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -f example_multidb/*.sqlite3 example_multidb/*.sqlite3-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra: the demo does not wait for linters, nor a server that it does not start.
$(VENV)/.installed-%: pyproject.toml $(BIN)/python
	@echo "Installing djjp[$*] into $(VENV) ..."
	@$(PIP) install --editable '.[$*]'
	@touch $@

# Line by line: a queue that cannot be installed here is missing from the table, and nothing else is.
$(PEERS_VENV)/.installed: pyproject.toml benchmarks/peers/requirements.txt $(PEERS_VENV)/bin/python
	@echo "Installing other queues into $(PEERS_VENV) ..."
	@$(PEERS_VENV)/bin/python $(QUIETLY) install --editable '.[test]'
	@grep -v '^#' benchmarks/peers/requirements.txt | while read -r wanted; do \
	    $(PEERS_VENV)/bin/python $(QUIETLY) install "$$wanted" || echo "Left out: $$wanted" >&2; \
	done
	@touch $@

$(BIN)/python $(PEERS_VENV)/bin/python:
	@for python in $(PYTHONS); do \
	    if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then \
	        echo "Making $(@:/bin/python=) with $$("$$python" --version) ..."; \
	        exec "$$python" -m venv --clear $(@:/bin/python=); \
	    fi; \
	done; \
	echo "No suitable Python among: $(PYTHONS)." >&2; \
	echo "djjp needs Python >= 3.11 with its venv, ssl and sqlite3 modules (Debian: apt install python3-venv)." >&2; \
	echo "Say which one: make PYTHON=/path/to/python3" >&2; \
	exit 1
