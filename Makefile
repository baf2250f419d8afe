# The two main commands are 'make demo' and 'make test'. Both install what they need into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO ?= demo

.PHONY: demo tour test test-all test-oldest lint docs bench clean

demo: $(BIN)/.installed
	$(BIN)/python -m cryogem_scipion.demo --out $(DEMO)

# Takes the pictures of the demo in Scipion's windows; needs Xvfb and ImageMagick.
tour: $(BIN)/.installed
	[ -f $(DEMO)/demo.png ] || $(MAKE) demo
	$(BIN)/python docs/tour.py --demo $(DEMO)

# The files of tests are shared by as many processes as there are cores, at most four (tests/conftest.py: by_group).
SHARED = -n auto --maxprocesses 4 --dist loadgroup

test: $(BIN)/.tested
	$(BIN)/pip check
	$(BIN)/python -m pytest $(SHARED)

test-all: $(BIN)/.tested
	CRYOGEM_TEST_ALL=1 $(BIN)/python -m pytest -rs

# Tests with the oldest version of each requirement; the old torch installs gigabytes of GPU libraries.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check -c .ci/oldest.txt --editable '.[test]'
	.venv-oldest/bin/pip check
	.venv-oldest/bin/python -m pytest $(SHARED)

# Measures the figures of benchmarks/RESULTS.md again; needs an idle machine and almost an hour.
bench: $(BIN)/.installed
	$(BIN)/python benchmarks/run.py

lint: $(BIN)/.linted
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site, in docs/_build/html; every warning is an error, and nothing is fetched from elsewhere.
docs: $(BIN)/.documented
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# torch is installed first, with its version: without a version, pip downloads gigabytes of GPU libraries
# also on machines without a GPU. With a GPU: make TORCH="torch" …
TORCH ?= torch==2.13.0

# Scipion needs tkinter. In Debian it is a package of its own.
TKINTER = $(PYTHON) -c 'import tkinter' 2>/dev/null

$(BIN)/.installed: setup.py pyproject.toml
	@$(TKINTER) || [ "$$(id -u)" != 0 ] || { apt-get update -qq && apt-get install -y -qq python3-tk; }
	@$(TKINTER) || { echo "$(PYTHON) has no tkinter: run 'apt-get install python3-tk', then make again" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(BIN)/.tested: $(BIN)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(BIN)/.linted: $(BIN)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[lint]'
	touch $@

$(BIN)/.documented: $(BIN)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) docs/_build docs/generated build dist *.egg-info
