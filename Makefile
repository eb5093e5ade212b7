# `make train` and `make test` do all the set-up on a machine with Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -n 2 --dist worksteal
INSTALLED := .venv/installed

.PHONY: train test check quick lint trust audit bench best pictures tables docs

# Under two minutes on two cores: the smallest of the report's CNNs on drawn faces. With data=fer2013 it is the real thing.
train: $(INSTALLED)
	$(BIN)/python train.py name=first model=cnn_111 data=synthetic synthetic_images=2500 balance=none \
		batch_size=16 trainer.max_epochs=12 overwrite=true

# What each of the next four runs, and how long it takes, is in docs/testing.md.
test: lint
	$(PYTEST) -m "not check"

check: lint
	$(PYTEST)

quick: $(INSTALLED)
	$(BIN)/pytest --ignore tests/trust -m "not (check or training or process or export or browser or real)"

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Kills, damaged and hostile files, load, far more often than in the tests: over an hour. `make tables` puts the
# result into docs/trust.md.
trust: $(INSTALLED)
	$(PYTEST) tests/trust --nightly --table results/trust.json

# What is known against the pinned versions; needs the network.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

# Speed beside the limit, a plain loop, timm and Keras: some 90 minutes on two cores that do nothing else.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/scaling.py --out benchmarks/results/scaling.json
	$(BIN)/python benchmarks/breakdown.py --out benchmarks/results/breakdown.json
	$(BIN)/python benchmarks/step.py --out benchmarks/results/step.json

# The recipes behind the best figures, five seeds each, with and without the copies between the parts of FER2013, and
# the page over them. Wants a GPU. To try it, in a folder of its own:
#     make best NAME=try WORDS="data=synthetic synthetic_images=210 seed=0 trainer.max_epochs=1 image_size=48"
NAME ?= best
best: $(INSTALLED)
	$(BIN)/python train.py -m recipe=small,best_ensemble name=$(NAME) $(WORDS)
	$(BIN)/python train.py -m recipe=small,best_ensemble split=clean name=$(NAME)-clean $(WORDS)
	for part in $(NAME) $(NAME)-clean; do \
		$(BIN)/python evaluate.py ckpt="[runs/$$part/resnet18-*/*/best.ckpt,runs/$$part/timm-*/*/best.ckpt]" \
			tta=shifts out=runs/ensembles/$$part || exit; done
	$(BIN)/emotion report runs/$(NAME) runs/$(NAME)-clean runs/ensembles

# Every table of README and docs, from results/ and benchmarks/results/.
tables: $(INSTALLED)
	$(BIN)/python docs/tables.py

# README's other pages and the docstrings as a site: site/index.html.
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

# The pictures of the README; needs Chromium.
pictures: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python docs/pictures.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
