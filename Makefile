# Two commands from a bare machine: `make table_occ3d` (the main job; without --row the runner takes all rows) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup table_occ3d table_renderers test test-fast lint reports doctor

setup:
	@$(PYTHON) experiments/install.py

table_occ3d: setup
	@$(BIN)/python -m experiments.run table_occ3d --row prior 'tpvformer*'

table_renderers: setup
	@$(BIN)/python -m renderers.compare --save

test: setup
	@$(BIN)/python -m pytest

test-fast: setup
	@$(BIN)/python -m pytest -m "not slow"

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

reports: setup
	@$(BIN)/python -m reports.build

doctor: setup
	@$(BIN)/python -m experiments.doctor
