# `make demo` runs the main job, `make test` checks everything. Both make .venv at their first run and reuse it.
# What needs timm has .venv-integrations: timm imports torchvision, of which there is none for .venv's PyTorch.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# pip compiles on one core, and all: packages' own tests aren't run, nor is much of what is large. What is left out
# is compiled when it is imported. Some files are templates, and no Python yet.
SELDOM := /(tests?|debugpy|pip|sqlalchemy|transformers/models|ray/(data|dashboard|llm|rllib|serve|train|tune))/
COMPILE := $(BIN)/python -m compileall -q -j 0 -x '$(SELDOM)' .venv/lib > /dev/null || true
TIMM := .venv-integrations
TIMM_PIP := $(TIMM)/bin/pip install --quiet --disable-pip-version-check \
	--constraint constraints-integrations.txt --constraint <(grep -v '^torch==' constraints.txt)
SOURCES := pyproject.toml README.md LICENSE $(shell find src -type f -not -name '*.pyc')

.PHONY: help demo test test-integrations torture fuzz mutants lint docs bench bench-models bench-scheduling bench-gpu clean

help:  ## Say what can be made.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

demo: .venv/lab .venv/wheel  ## Run the built-in study `quick`: three networks, eight seeds, 5,000 real digits.
	@$(BIN)/weight-feedback run quick

test: lint .venv/wheel  ## Check lint, types and import contracts; run all tests against the installed wheel.
	$(BIN)/python -P -m pytest --numprocesses 2 --cov --cov-report= $(PYTEST_ARGS)
	@echo "Branch coverage of the library (at least 95 %) and of the lab (at least 90 %):"
	$(BIN)/coverage report --omit '*/lab/*' --fail-under 95
	$(BIN)/coverage report --include '*/lab/*' --fail-under 90

test-integrations: $(TIMM)/wheel  ## Run all tests, timm's networks among them, with another PyTorch (downloads several GB).
	$(TIMM)/bin/python -P -m pytest --numprocesses 2 $(PYTEST_ARGS)

torture: .venv/test .venv/wheel  ## Kill a study 3,000 times, and at every failpoint: nothing may be lost (an hour).
	$(BIN)/python tests/torture.py $(ARGS)

fuzz: .venv/test .venv/wheel  ## Fire a million inputs at every parser, and 200,000 led by coverage (an hour).
	@$(PIP) '.[fuzz]'
	$(BIN)/python tests/fuzz.py $(ARGS)

mutants: .venv/test .venv/wheel  ## Break what guards results, and 100 lines anywhere: some test must fail each time (hours).
	$(BIN)/python tests/mutants.py $(ARGS)
	$(if $(ARGS),,$(BIN)/python tests/mutants.py --sample 100)

lint: .venv/test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/test .venv/wheel  ## Run the documentation's examples and build it; warnings are errors.
	# The pages are read, and the notebook is run, once for both.
	$(BIN)/sphinx-build -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/sphinx-build -W -q -b doctest -d docs/_build/doctrees docs docs/_build/doctest
	@echo "docs/_build/html/index.html"

bench: .venv/bench .venv/wheel $(TIMM)/wheel  ## Time everything against targets, and draw how cost grows (downloads several GB).
	@status=0; for name in projections training vectorised; do \
		$(BIN)/python benchmarks/$$name.py || status=1; done; \
	$(TIMM)/bin/python benchmarks/models.py || status=1; \
	$(BIN)/python benchmarks/scheduling.py; \
	$(BIN)/python benchmarks/growth.py; exit $$status

bench-models: $(TIMM)/wheel  ## Of these, time steps of timm's networks and of a large transformer alone.
	$(TIMM)/bin/python benchmarks/models.py $(ARGS)

bench-scheduling: .venv/bench .venv/wheel  ## Of these, count the empty trials a second that each engine can be handed.
	$(BIN)/python benchmarks/scheduling.py

bench-gpu: .venv/bench .venv/wheel  ## Time cohorts and CUDA graphs against the plain loop, where there is a GPU.
	@$(BIN)/python benchmarks/gpu.py $(ARGS)

clean:  ## Remove the environment and everything that was built.
	rm -rf .venv $(TIMM) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*

# The first pip command names torch alone, so that the version in constraints.txt is the one that is looked for.
$(BIN)/python: | constraints.txt
	@echo "Making .venv and installing PyTorch …"
	@$(PYTHON) -m venv .venv
	@$(PIP) --no-compile "$$(grep '^torch==' constraints.txt)"

# The extras' dependencies; the package itself comes from .venv/wheel.
.venv/lab: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the lab needs …"
	@$(PIP) --no-compile '.[lab]'
	@$(COMPILE)
	@touch $@

.venv/test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the lab, the tests and the docs need …"
	@$(PIP) --no-compile '.[test,docs]'
	@$(COMPILE)
	@touch $@ .venv/lab

.venv/bench: pyproject.toml constraints.txt | .venv/lab
	@echo "Installing what the benchmarks need …"
	@$(PIP) '.[lab,bench]'
	@touch $@

# Not editable: what runs is what a user would get, without src/ on the path.
.venv/wheel: $(SOURCES) | $(BIN)/python
	@$(PIP) --no-deps --force-reinstall .
	@touch $@

$(TIMM)/bin/python: | constraints.txt constraints-integrations.txt
	@echo "Making $(TIMM) and installing PyTorch and torchvision …"
	@$(PYTHON) -m venv $(TIMM)
	@$(TIMM_PIP) torch torchvision

$(TIMM)/test: pyproject.toml constraints.txt constraints-integrations.txt | $(TIMM)/bin/python
	@echo "Installing timm, and what the tests need …"
	@$(TIMM_PIP) '.[integrations]'
	@touch $@

$(TIMM)/wheel: $(SOURCES) | $(TIMM)/test
	@$(TIMM_PIP) --no-deps --force-reinstall .
	@touch $@
