PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test soak check clean

demo: $(STAMP)
	$(BIN)/python -m experiments.combine

test: $(STAMP)
	$(TESTS)

soak: $(STAMP)
	SOAK=1 NEED_CHROMIUM=1 $(TESTS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

# torch first: a later resolver step then keeps the build that constraints.txt names. Of the many modules installed few are
# ever imported, and Python compiles those by itself.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check -q -c constraints.txt -e ".[test,dev]"
	touch $(STAMP)

clean:
	rm -rf build dist *.egg-info $(VENV)
