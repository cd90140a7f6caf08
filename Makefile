# Every target sets up what it needs: Python 3.11 or later and make are enough.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
DATA ?= digits

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --constraint constraints.txt
EXTRAS := report,explain,metrics,datasets,text,search,onnx,dev
INSTALLED := $(VENV)/.installed
SOURCES := estimator handlers tests tutorials benchmarks setup.py
TYPED := build/typed

.PHONY: help demo test test-full check bench docs-test clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r command purpose; \
		do printf '%-16s %s\n' "$$command" "$$purpose"; done

demo: $(INSTALLED) ## train a classifier and write its run folder (DATA=digits)
	$(PY) tutorials/demo.py --data $(DATA)

test: $(INSTALLED) ## all tests, with coverage
	$(PY) -m pytest --cov --cov-report=term-missing:skip-covered

test-full: $(INSTALLED) ## every combination of what the tests of resume combine (a quarter of an hour)
	$(PY) -m pytest -m full

check: $(INSTALLED) ## lint, format and strict types
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	@# mypy knows nothing of the mapping in setup.py: it reads a tree of links that is laid out as installed.
	rm -rf $(TYPED)
	mkdir -p $(TYPED)/estimator
	ln -s $(CURDIR)/tests $(TYPED)
	ln -s $(CURDIR)/estimator/* $(TYPED)/estimator
	ln -s $(CURDIR)/handlers $(TYPED)/estimator
	cd $(TYPED) && $(CURDIR)/$(PY) -m mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache estimator tests

bench: $(INSTALLED) ## time the loop and its engine against loops written by hand (an hour)
	$(PY) benchmarks/checkpoint.py
	$(PY) benchmarks/loop.py
	$(PY) benchmarks/engine.py
	$(PY) benchmarks/sequences.py
	$(PY) benchmarks/report.py
	$(PY) benchmarks/page.py

docs-test: $(INSTALLED) ## run every example of the README, the guide and the docstrings
	$(PY) -m pytest tests/docs_examples.py

clean: ## remove the environment, builds, caches and reports
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache
	find estimator handlers tests tutorials benchmarks -name __pycache__ -prune -exec rm -rf {} +

# torch comes first and by its exact version, so that no other requirement chooses one. The build
# tools are pinned as well: nothing is fetched at build time.
$(INSTALLED): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) pip setuptools wheel
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	touch $@
