# make demo: repair a small classifier that fails on corrupted digits, end to end, offline (about 3 minutes after installation)
# make test: the whole test suite and the linter, on two cores
# make test-matrix: the tests under other versions, kernels, threads, interpreters (hours); MATRIX='--rows oldest --tests tests/test_hub.py' for a part
VENV ?= .venv
PYTHON ?= python3
MATRIX ?=
BIN = $(VENV)/bin

.PHONY: demo test test-matrix clean

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py --output demo-output

test: $(VENV)/installed
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-matrix: $(VENV)/installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python .ci/matrix.py $(MATRIX)

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,test]'
	touch $@

clean:
	rm -rf $(VENV) demo-output build *.egg-info
