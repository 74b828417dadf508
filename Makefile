# Two commands do it all on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 10
DEPTH ?= 2
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# Tests also wait, those with real guests most of the time: more of them than processors.
WORKERS ?= $(shell expr $(JOBS) + $(JOBS) / 2)
GUESTS ?= $(shell expr $(JOBS) '*' 2)
unexport PYTHONDONTWRITEBYTECODE # tests start many programs: compiled once, each starts in a fraction of the time

.PHONY: help demo check test chaos explore fuzz mutate bench docs pictures looks clean

help: ## say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

$(BIN)/.ready: pyproject.toml constraints.txt tools/setup-host
	tools/setup-host python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(BIN)/.ready ## the terminal UI on a real guest (a story in lines where there is no terminal), cleaned up
	tools/setup-host qemu
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/demo

check: $(BIN)/.ready ## format, lint, types, layers and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.workflow_doc --check
	$(BIN)/python -m pytest -q -m "not real and not slice" -n $(WORKERS)

test: check ## everything, with every real QEMU that can be had
	tools/setup-host tests
	$(BIN)/python -m pytest -q -m slice -n $(WORKERS)
	tools/setup-host qemu more-qemus
	$(BIN)/python -m pytest -q -m real -n $(GUESTS) --dist loadgroup --no-loadscope-reorder

fuzz: $(BIN)/.ready ## wrong messages and streams from new seeds, for VMTUI_FUZZ_MINUTES (5)
	$(BIN)/python -m tests.fuzz

mutate: $(BIN)/.ready ## delete or weaken each rule of the workflow in turn: the core tests must notice
	$(BIN)/python -m tools.mutate

chaos: $(BIN)/.ready ## end vmtui at random moments, in every way, and look what became of guest, card and file
	tools/setup-host qemu more-qemus
	$(BIN)/python -m tests.chaos

explore: $(BIN)/.ready ## walk every way a save can go wrong, for MINUTES (10), DEPTH (2) faults deep
	$(BIN)/python -m tests.explore --minutes $(MINUTES) --depth $(DEPTH) --jobs $(JOBS)

bench: $(BIN)/.ready ## measure, against the steps driven by hand and the classic recipe
	tools/setup-host qemu
	$(BIN)/python tools/bench.py

docs: $(BIN)/.ready ## write what is generated: docs/workflow.md
	$(BIN)/python -m tools.workflow_doc

pictures: $(BIN)/.ready ## make the pictures of README and docs, from the program
	tools/setup-host qemu
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.pictures

looks: $(BIN)/.ready ## keep how every screen looks now (tests/ui/pictures), to be compared with: look at them
	$(BIN)/python -m tests.ui keep

clean: ## remove what was made here
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
