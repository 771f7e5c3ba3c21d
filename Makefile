# Everything runs in the project's own .venv, which `setup` makes once.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := gym,atari,test

.PHONY: setup demo test test-slow test-learning lint bench build debug clean

setup: .venv/.built

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]' && touch $@ .venv/.built

.venv/.built: .venv/.installed setup.py $(wildcard csrc/*.pyx csrc/*.pxd csrc/*.h)
	$(BIN)/python setup.py --quiet build_ext --inplace && touch $@

demo: setup
	$(BIN)/python examples/dqn_cartpole.py

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

test-learning: setup
	$(BIN)/python -m pytest -m learning --timeout 3600

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m mypy.stubtest really._ring

build: setup
	$(BIN)/python -m build

debug: setup
	REALLY_DEBUG=1 $(BIN)/python setup.py --quiet build_ext --inplace --force

clean:
	rm -rf build dist *.egg-info really/*.so csrc/*.c .pytest_cache .mypy_cache .ruff_cache .hypothesis .venv/.built
