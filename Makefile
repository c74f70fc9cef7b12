PYTHON ?= python3
BIN := .venv/bin

# accelerate's defaults for a machine that nobody configured, said aloud so that it does not warn
ONE_PROCESS := --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
# Bytecode is written when a module is first imported, and not for all 19,000 files when they are installed.
PIP_INSTALL := install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE
# The requirement, as pyproject.toml has it.
TRANSFORMERS := import tomllib; required = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	print(*(each for each in required if each.startswith("transformers")))

OLDEST := import re, sys; print("transformers==" + re.search(r">=([\d.]+)", sys.argv[1])[1] + ".*")

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-newest test-oldest test-slow clients conformance check format clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## make .venv and install the package in it

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip $(PIP_INSTALL) --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip $(PIP_INSTALL) --constraint constraints.txt --editable '.[test,check]'
	@touch .venv/installed $@

quickstart: .venv/installed ## pre-train minibert-mini on the builtin corpus for three minutes
	$(BIN)/accelerate launch $(ONE_PROCESS) scripts/pretrain.py --model minibert-mini --corpus builtin \
		--output_dir runs/minibert --budget 3m

test: .venv/installed-dev ## install what the tests need and run them
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not client'

.venv-newest/installed: .venv/installed-dev
	$(PYTHON) -m venv .venv-newest
	@# Over .venv, whose packages it shares but for what the newest transformers wants in other versions.
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PURELIB)')')" \
		> "$$(.venv-newest/bin/python -c '$(PURELIB)')/beneath.pth"
	.venv-newest/bin/pip $(PIP_INSTALL) --upgrade "$$($(BIN)/python -c '$(TRANSFORMERS)')"
	@touch $@

test-newest: .venv-newest/installed ## the models' tests, with the newest transformers that pyproject.toml allows
	.venv-newest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow' tests/models

test-oldest: .venv/installed-dev ## the models' tests, with the oldest transformers that pyproject.toml allows
	$(PYTHON) -m venv .venv-oldest
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PURELIB)')')" \
		> "$$(.venv-oldest/bin/python -c '$(PURELIB)')/beneath.pth"
	.venv-oldest/bin/pip $(PIP_INSTALL) "$$($(BIN)/python -c '$(OLDEST)' "$$($(BIN)/python -c '$(TRANSFORMERS)')")"
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow' tests/models

test-slow: .venv/installed-dev ## the slow tests alone
	$(BIN)/python -m pytest -m 'slow and not client'
	$(BIN)/python -m pytest tests/conformance -n 2 --dist worksteal -m slow

clients: .venv/installed-dev ## other people's tools on our models, in an environment of their own
	$(PYTHON) -m venv .venv-clients
	@# Over .venv, but for what the tools want in other versions.
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PURELIB)')')" \
		> "$$(.venv-clients/bin/python -c '$(PURELIB)')/beneath.pth"
	.venv-clients/bin/pip $(PIP_INSTALL) --constraint constraints.txt '.[clients]'
	@# Python warns of odd escapes when it compiles the tools, and here a warning is an error.
	-.venv-clients/bin/python -W ignore -m compileall -qq -j 2 \
		"$$(.venv-clients/bin/python -c '$(PURELIB)')"
	.venv-clients/bin/python -m pytest -p no:hypothesispytest tests/clients

conformance: .venv/installed-dev ## transformers' own suites on our models, and on BERT, GPT-2 and Llama
	$(BIN)/python -m pytest tests/conformance -n 2 --dist worksteal -m 'not slow'

check: .venv/installed-dev ## ruff (lint and format), mypy, and whether the package builds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	rm -rf dist && $(BIN)/python -m build --outdir dist . > dist.log 2>&1 || { cat dist.log; exit 1; }
	@rm -f dist.log
	$(BIN)/twine check --strict dist/*

format: .venv/installed-dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environments, caches and what was built
	rm -rf .venv .venv-newest .venv-oldest .venv-clients .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
