# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
# `make fast` (with a C compiler) gives the same program with its hot modules compiled, in an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAST := .venv-fast
PIP := -m pip --disable-pip-version-check --quiet install --constraint constraints.txt

.PHONY: demo test lint bench install fast test-fast clean

demo: install
	$(BIN)/python examples/demo.py

test: install lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python bench/speed.py
	$(BIN)/python bench/capacity.py

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Phasewise needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
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
	$(FAST)/bin/python $(PIP) "$$(ls $(FAST)/wheel/*.whl)[dev]"
	touch $@

test-fast: fast
	$(FAST)/bin/python -m pytest

clean:
	rm -rf $(VENV) $(FAST) demo
