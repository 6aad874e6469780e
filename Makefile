# deepmr: `make table1` runs the main job, `make test` the tests. Each sets up what it needs in .venv first.
PYTHON ?= python3
VENV ?= .venv
# An environment that sees the packages of $(VENV) behind its own, for those that want other versions.
ZOO ?= $(VENV)-zoo
BIN := $(VENV)/bin
# Options of `deepmr table1`, e.g. make table1 ARGS="--windows 5 --draws 20 --exposures HepG2_CTCF_None"
ARGS ?=
OUT ?= runs/table1
# Processes that the tests run in, of one thread each.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
# A FASTA for `make table1`; without one the sequence is what ships, and for windows of your own the cache's or UCSC's.
GENOME ?=
# Further options of pip. Where it would bring PyTorch with CUDA, several GB, give it PyTorch's index of CPU builds (see "Get started" on pytorch.org):
# make table1 PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(PIP_ARGS)

export MPLBACKEND := agg

.DEFAULT_GOAL := help
.PHONY: help table1 check test test-long zoo wheel-check notebooks faults docs links readme clean

help:
	@echo "Every target first sets up what it needs in $(VENV)."
	@echo ""
	@echo "To use deepmr:"
	@echo "  make table1       run the main job on the default model and print the table (minutes); options go into ARGS=\"...\""
	@echo "  make docs         make a website of the notebooks in _docs"
	@echo "  make clean        remove $(VENV) and $(ZOO)"
	@echo ""
	@echo "To work on deepmr:"
	@echo "  make check        check the code without running it: ruff, mypy (seconds)"
	@echo "  make test         make check, then run notebooks and tests (minutes); fails if the tests run less than 90 % of deepmr/"
	@echo "  make test-long    the tests and notebooks that take longest: killed runs, trainings, coverage of intervals (minutes)"
	@echo "  make zoo          run the tests of networks whose packages want an environment of their own, in $(ZOO)"
	@echo "  make wheel-check  build the wheel, install it in an empty environment, run the main job there"
	@echo "  make notebooks    run all notebooks and save their outputs"
	@echo "  make faults       write tests/faults.csv and the tables of E2_inputs from what the program says now"
	@echo "  make readme       write README.md from nbs/index.ipynb"
	@echo "  make links        check on the network that the links to other sites work"

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "deepmr needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "setting up $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@touch $@

$(VENV)/user: $(VENV)/made settings.ini setup.py pyproject.toml constraints.txt
	@echo "installing deepmr ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/dev: $(VENV)/user
	@echo "installing what the tests need ..."
	@$(PIP) --editable '.[dev,zoo]'
	@touch $@

table1: $(VENV)/user
	@$(if $(ARGS),$(BIN)/deepmr table1 --out $(OUT) $(ARGS),$(BIN)/deepmr run experiments/table1.toml --out $(OUT))

check: $(VENV)/dev
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Coverage counts the tests in tests/ alone, because notebooks run their own cells and not deepmr/*.py. Some tests read reference files in
# ../shared. Where these are missing, the share is printed but sets no limit.
test: check
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not long" --cov $(if $(wildcard ../shared),,--cov-fail-under=0)

test-long: $(VENV)/dev
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m long

$(ZOO)/made: $(VENV)/dev tools/zoo.sh constraints.txt
	@echo "setting up $(ZOO) ..."
	@tools/zoo.sh $(abspath $(BIN))/python $(ZOO)
	@touch $@

zoo: $(ZOO)/made
	@DEEPMR_NO_SKIP=1 OMP_NUM_THREADS=1 $(ZOO)/bin/python -m pytest -n $(JOBS) --dist worksteal tests/test_zoo.py tests/test_models.py \
	  -k "bpnet or tangermeme or grelu or enformer or onnx or directory_of_kipoi or kipoi_fetches"

wheel-check: $(VENV)/dev
	@tools/check_wheel.sh $(abspath $(BIN))/python

notebooks: $(VENV)/dev
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/run_notebooks.py

faults: $(VENV)/dev
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tests/faults.py
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/run_notebooks.py explanations/E2_inputs

readme: $(VENV)/dev
	@$(BIN)/python tools/make_readme.py

docs: $(VENV)/dev
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/make_docs.py

links: $(VENV)/dev
	@$(BIN)/python tools/links.py

clean:
	rm -rf $(VENV) $(ZOO)
