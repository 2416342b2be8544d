# Two commands from a bare machine: `make table_occ3d` (the main job; without --row the runner takes all rows) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup table_occ3d table_renderers table_renderers_gpu test test-fast lint reports doctor

setup:
	@$(PYTHON) experiments/install.py

table_occ3d: setup
	@$(BIN)/python -m experiments.run table_occ3d --row prior 'tpvformer*'

table_renderers: setup
	@$(BIN)/python -m renderers.compare --save

# Needs an NVIDIA GPU and nvcc: every renderer, diff_gauss built from source, and the triton renderer's other precisions.
table_renderers_gpu: setup
	@$(BIN)/python -m renderers.build diff_gauss
	@$(BIN)/python -m renderers.compare --device cuda --save
	@$(BIN)/python -m renderers.triton.precisions occ3d-camera kitti360-camera gaussianocc

# Tests of a file stay in one process. Torch's own threads are off: they would only fight with the other processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: setup
	@$(PYTEST)

test-fast: setup
	@$(PYTEST) -m "not slow"

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

reports: setup
	@$(BIN)/python -m reports.build

doctor: setup
	@$(BIN)/python -m experiments.doctor
