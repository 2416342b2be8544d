# Two commands from a bare machine: `make table_occ3d` (the main job; without --row the runner takes all rows) and `make test`.
# What stands behind ## is what `make help` says.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup table_occ3d table_renderers table_renderers_gpu test test-fast test-slurm fuzz kills lint reports site doctor

help: ## this list
	@sed -n 's/^\([a-z0-9_-]*\):.* ## /\1: /p' $(MAKEFILE_LIST) | awk -F': ' '{ printf "make %-20s %s\n", $$1, $$2 }'

setup: ## the environment .venv (about 4 minutes)
	@$(PYTHON) -m experiments.install

table_occ3d: setup ## train and evaluate TPVFormer with and without GaussRender, print the table
	@$(BIN)/python -m experiments.run table_occ3d --row prior 'tpvformer*'

table_renderers: setup ## measure the renderers that run here
	@$(BIN)/python -m renderers.compare --save

# Needs an NVIDIA GPU and nvcc: every renderer, diff_gauss built from source, and the triton renderer's other precisions.
table_renderers_gpu: setup ## measure all renderers (an NVIDIA GPU and nvcc)
	@$(BIN)/python -m renderers.build diff_gauss
	@$(BIN)/python -m renderers.compare --device cuda --save
	@$(BIN)/python -m renderers.triton.precisions occ3d-camera kitti360-camera gaussianocc

# Tests of a file stay in one process, in the order of tests/conftest.py. One process more than the two cores that there are at
# least: tests wait for commands and servers. Torch's own threads are off: they would only fight with the other processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
	--durations 25 --durations-min 20

test: setup ## all tests
	@$(PYTEST)

test-fast: setup ## the tests that take seconds
	@$(PYTEST) -m "not slow"

test-slurm: setup ## a sweep through a real Slurm on loopback, disturbed (skips without Slurm)
	@$(BIN)/python tests/slurm/check.py

MINUTES ?= 20
fuzz: setup ## damaged and wrong files for every reader (MINUTES=20)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --minutes $(MINUTES)

KILLS ?= 100
kills: setup ## cells killed and continued, with nothing lost, unequal or left over (KILLS=100)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py --kills $(KILLS)

lint: setup ## format, lint and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

reports: setup ## README, pages, CSV files and figures from the committed records
	@$(BIN)/python -m reports.build

site: setup ## all results as a site of static pages, in site/
	@$(BIN)/python -m reports.site

doctor: setup ## what this machine has, and what is missing
	@$(BIN)/python -m experiments.doctor
