# `make train` and `make test` do all the set-up on a machine with Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -n 2 --dist worksteal
INSTALLED := .venv/installed

.PHONY: train test check quick lint trust audit bench best pictures tables docs

# Trains the smallest of the paper's CNNs on drawn faces: under two minutes on two cores. FER2013 takes data=fer2013.
train: $(INSTALLED)
	$(BIN)/python train.py name=first model=cnn_111 data=synthetic synthetic_images=2500 balance=none \
		batch_size=16 trainer.max_epochs=12 overwrite=true

# docs/testing.md lists the tests and the time of `test`, `check`, `quick` and `trust`.
test: lint
	$(PYTEST) -m "not check" --durations=25

check: lint
	$(PYTEST)

quick: $(INSTALLED)
	$(BIN)/pytest --ignore tests/trust -m "not (check or training or process or export or browser or real)"

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Repeats the tests of kills, damaged and hostile files and load far more often than `make check`: over an hour.
# `make tables` writes the result to docs/trust.md.
trust: $(INSTALLED)
	$(PYTEST) tests/trust --nightly --table results/trust.json

# Checks the pinned versions for known vulnerabilities; needs the network.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

# Measures speed beside the hardware's limit, a plain loop, timm and Keras: about 90 minutes on two idle cores.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/scaling.py --out benchmarks/results/scaling.json
	$(BIN)/python benchmarks/breakdown.py --out benchmarks/results/breakdown.json
	$(BIN)/python benchmarks/step.py --out benchmarks/results/step.json

# Trains the best recipes with five seeds each, with and without the duplicates across the splits of FER2013, and writes
# the report page. Needs a GPU. To try it on drawn faces, in another folder:
#     make best NAME=try WORDS="data=synthetic synthetic_images=210 seed=0 trainer.max_epochs=1 image_size=48"
NAME ?= best
best: $(INSTALLED)
	$(BIN)/python train.py -m recipe=small,best_ensemble name=$(NAME) $(WORDS)
	$(BIN)/python train.py -m recipe=small,best_ensemble split=clean name=$(NAME)-clean $(WORDS)
	for part in $(NAME) $(NAME)-clean; do \
		$(BIN)/python evaluate.py ckpt="[runs/$$part/resnet18-*/*/best.ckpt,runs/$$part/timm-*/*/best.ckpt]" \
			tta=shifts out=runs/ensembles/$$part || exit; done
	$(BIN)/emotion report runs/$(NAME) runs/$(NAME)-clean runs/ensembles

# Writes every table of README and docs from results/ and benchmarks/results/, and the settings of conf/config.yaml.
tables: $(INSTALLED)
	$(BIN)/python docs/tables.py

# Builds the pages of docs/ and the docstrings as a site: site/index.html.
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

# Draws the figures of the README; needs Chromium.
pictures: $(INSTALLED)
	PYTHONPATH=tests $(BIN)/python docs/pictures.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
