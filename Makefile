# make demo: repair a small classifier that fails on corrupted digits, end to end, offline (about 3 minutes after installation)
# make test: the whole test suite, the linter, the direction of imports and the types, on two cores
# make test-matrix: the tests under other versions, kernels, numbers of threads and interpreters (hours);
#     MATRIX='--rows oldest --tests tests/hub' for a part
# make test-mutations: would the tests notice a wrong answer?
VENV ?= .venv
PYTHON ?= python3
MATRIX ?=
BIN = $(VENV)/bin

.PHONY: demo test test-matrix test-mutations clean

demo: $(VENV)/installed
	$(BIN)/timm-repair demo --output demo-output

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-matrix: $(VENV)/installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python .ci/matrix.py $(MATRIX)

test-mutations: $(VENV)/installed
	$(BIN)/python .ci/mutations.py

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,test]'
	touch $@

clean:
	rm -rf $(VENV) demo-output build *.egg-info
