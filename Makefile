# `make train` and `make test` do all the set-up on a machine with Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: train test quick

# Two minutes on two cores: the report's CNN on drawn faces. The same line without data=synthetic is the real thing.
train: $(INSTALLED)
	$(BIN)/python train.py experiment=first data=synthetic synthetic_images=2500 balance=none batch_size=16 \
		trainer.max_epochs=6 overwrite=true

test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

quick: $(INSTALLED)
	$(BIN)/pytest -m "not slow and not real"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
