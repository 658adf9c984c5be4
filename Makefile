# `make train` and `make test` do everything on a fresh machine. TORCH chooses the build of torch, for example
# `make test TORCH=torch==2.13.0`; it is installed in the same pip command as the project, so nothing replaces it.
PYTHON ?= python3
TORCH ?= torch
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := setup.cfg pyproject.toml
# A file's tests stay together: they share what it makes for them.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

.DELETE_ON_ERROR:
.PHONY: help train data test test-quick lint format format-check types clean

train: ## install, write a small data set, train for a minute on the CPU
train: $(VENV)/.installed test_data_mini
	$(BIN)/python train_diffusion_ddim.py \
	    --data_dir test_data_mini/train \
	    --val_data_dir test_data_mini/val \
	    --batch_size 2 \
	    --num_epochs 3 \
	    --lr 1e-3 \
	    --d_model 32 \
	    --num_layers 2 \
	    --nhead 2 \
	    --wandb_project ddim-mac-test \
	    --device cpu
	@echo "That was a smoke test: 10 sequences teach nothing. Next: make data, and the full training of README.md, which meets the targets."

data: ## write the data of the full training: 5,000 and 1,000 sequences
data: $(VENV)/.installed diffusion_test_data

test: ## install, run all tests
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

test-quick: ## the same without the slow ones
test-quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: ## look for mistakes (ruff)
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check

format: ## put the code into its form (ruff)
format: $(VENV)/.installed-dev
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

format-check: ## say what `make format` would change
format-check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check

types: ## check types (mypy)
types: $(VENV)/.installed-dev
	$(BIN)/mypy

clean: ## remove the environment
	rm -rf $(VENV)

help: ## list these
	@sed -n 's/^\([a-z-]*\): ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# dataset.json is written last: a folder without one was interrupted, and is written over.
test_data_mini: test_data_mini/train/dataset.json test_data_mini/val/dataset.json
diffusion_test_data: diffusion_test_data/train/dataset.json diffusion_test_data/val/dataset.json
.PHONY: test_data_mini diffusion_test_data

GENERATE = $(BIN)/python -m augmentation.generate_click_dataset --overwrite --output_dir $(@D)

test_data_mini/train/dataset.json: | $(VENV)/.installed
	$(GENERATE) --num_sequences 10 --seed 0
test_data_mini/val/dataset.json: | $(VENV)/.installed
	$(GENERATE) --num_sequences 5 --seed 1
diffusion_test_data/train/dataset.json: | $(VENV)/.installed
	$(GENERATE) --num_sequences 5000 --seed 0
diffusion_test_data/val/dataset.json: | $(VENV)/.installed
	$(GENERATE) --num_sequences 1000 --seed 1

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e .
	touch $@

$(VENV)/.installed-dev: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e ".[dev]"
	touch $@ $(VENV)/.installed
