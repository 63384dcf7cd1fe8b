PYTHON ?= python3
LOGDIR ?= runs/demo
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test corpus corpus-quick lint docs tensorboard clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/lightning-adam demo --logdir $(LOGDIR)

# Where the environment forbids bytecode, each of the processes that tests start would compile our source anew.
test: $(VENV)/.installed
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

corpus-quick: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.benchmarks.divergence.corpus --quick --processes 2

corpus: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m tests.benchmarks.divergence.corpus --remedies --processes 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

tensorboard: $(VENV)/.installed
	$(BIN)/tensorboard --logdir $(LOGDIR) --host 127.0.0.1

clean:
	rm -rf $(VENV) build dist *.egg-info
