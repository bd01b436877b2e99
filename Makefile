# Everything from a bare clone, with nothing but python3 (3.11 or newer) and pip: each target makes .venv by itself,
# once, and again when pyproject.toml, constraints.txt or the C++ change. Another interpreter: make PYTHON=python3.12 test
# Options for the program behind a target: make demo ARGS="--rounds 5"
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT := out/demo
LINES := 100000
# Tests run in one process per core already; more threads in each only get in each other's way.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench peers spark faults soak fuzz docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with every dependency at its fixed version

$(READY): pyproject.toml constraints.txt $(wildcard data_adapters/native/* privacy/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Gemel needs Python 3.11 or newer as '$(PYTHON)'. Name another: make PYTHON=python3.12 setup" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "python3 -m venv failed. On Debian or Ubuntu install it first: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null || { rm -rf $(VENV); \
	  echo "The virtual environment has no pip. On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@# torch alone, first and by its exact version: left to a resolver, it may come with gigabytes of GPU libraries.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## the whole walk on this machine, under five minutes: report in out/demo/report.html
	$(BIN)/gemel demo --out $(OUT) $(ARGS)

test: $(READY)  ## all tests but the heavy ones
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 -m "not faults and not heavy" $(ARGS)

check: $(READY)  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## every benchmark; results in benchmarks/results/
	$(BIN)/python benchmarks/run.py $(ARGS)

peers:  ## what benchmarks and live tests compare with, each in an environment of its own under .peers
	@for list in benchmarks/peers/*.txt; do \
	  home=.peers/$$(basename $$list .txt); \
	  cmp -s $$list $$home/installed.txt && continue; \
	  echo $$home; rm -rf $$home; $(PYTHON) -m venv $$home && \
	  $$home/bin/python -m pip install --quiet --requirement $$list && cp $$list $$home/installed.txt || exit 1; \
	done

spark: $(READY)  ## the SQL on FHIR cases on Spark as well: installs PySpark (450 MB), and needs Java 17
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[spark]'
	$(BIN)/pytest -q tests/data_adapters/views/test_views_spark.py $(ARGS)

faults: $(READY)  ## the heavy tests: kills, cuts, lies, full disks on separate hosts; files damaged; figures at the end
	$(ONE_THREAD) $(BIN)/pytest -q -m "faults or heavy" tests --deselect tests/faults/test_faults_soak.py $(ARGS)

soak: $(READY)  ## 200 rounds on separate hosts: memory, descriptors and disks stay as they are
	$(ONE_THREAD) $(BIN)/pytest -q tests/faults/test_faults_soak.py $(ARGS)

fuzz: $(READY)  ## 100,000 damaged FHIR lines through both readers, and through the whole reading (LINES=... for more)
	$(BIN)/python tests/support/damaged_lines.py $(LINES) $(ARGS)
	$(BIN)/python tests/support/damaged_exports.py $(LINES) $(ARGS)

docs: $(READY)  ## write the generated pages anew: errors, commands, programmes
	$(BIN)/python -m gemel.cli.reference docs

clean:  ## remove what was made, .venv included
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache benchmarks/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
