# `make help` lists the targets.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-slow lint format docs reproduce bench bench-engine bench-glow bench-zoo bench-cost bench-study bench-ablations bench-metrics bench-runs clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[demo]"
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[data,flows,diffusers,language,demo,dev]"
	@touch $@

demo: $(VENV)/demo.stamp  ## Set up, train a small Glow on bundled images and write a report (runs/demo)
	$(BIN)/fisherscope demo --out runs/demo

test: $(VENV)/dev.stamp lint  ## Set up, lint, check the layers, run the default tests
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not slow"

test-slow: $(VENV)/dev.stamp  ## Run the long tests too
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

lint: $(VENV)/dev.stamp  ## ruff, mypy and the import contracts
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/mypy --no-warn-return-any --allow-untyped-calls --ignore-missing-imports --disable-error-code=operator benchmarks
	$(BIN)/lint-imports --no-cache

format: $(VENV)/dev.stamp  ## Let ruff format the code
	$(BIN)/ruff format src tests benchmarks

$(VENV)/docs.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[docs]"
	@touch $@

docs: $(VENV)/docs.stamp  ## Build the documentation strictly (docs/_build/index.html)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build

reproduce: $(VENV)/dev.stamp  ## Make the paper's tables and figures from the sets below FISHERSCOPE_DATA (docs/reproduction; hours)
	FISHERSCOPE_DATA="$${FISHERSCOPE_DATA:-$(wildcard ../shared/data)}" $(BIN)/fisherscope reproduce all --page docs/reproduction

bench: bench-engine bench-glow  ## Time engine and training (docs/performance*.md); zoo, cost, study and ablations have targets of their own

bench-engine: $(VENV)/dev.stamp  ## Time the gradient engine against its rivals (docs/performance.md)
	$(BIN)/python benchmarks/engine.py

bench-glow: $(VENV)/dev.stamp  ## Time training steps of Glow beside normflows (docs/performance-training.md)
	$(INSTALL) -e ".[bench]"
	$(BIN)/python benchmarks/glow_throughput.py

bench-zoo: $(VENV)/dev.stamp  ## Measure the zoo's models on test data (docs/zoo.md and their cards; needs FISHERSCOPE_DATA)
	$(BIN)/python benchmarks/zoo.py --limit 1000 --undertrained vae-cifar10 vae-gtsrb vae-tiny_imagenet32 \
		--local glow-cifar10 glow-cifar10-seed1 glow-cifar10-seed2 glow-fashion_mnist glow-fashion_mnist-seed1 \
		glow-fashion_mnist-seed2 glow-mnist glow-tiny_imagenet32 pixelcnn-fashion_mnist pixelcnn-mnist \
		diffusion-cifar10 diffusion-tiny_imagenet32

bench-cost: $(VENV)/dev.stamp  ## Time what the default costs on the zoo's models (docs/default_cost.md; needs FISHERSCOPE_DATA)
	$(BIN)/python benchmarks/default_cost.py --rounds=11 \
		--models glow-cifar10 glow-fashion_mnist vae-cifar10 vae-fashion_mnist diffusion-fashion_mnist

bench-study: $(VENV)/dev.stamp  ## Score the zoo's models that have no scores yet and write docs/study.md (hours)
	$(BIN)/python benchmarks/study.py

bench-ablations: $(VENV)/dev.stamp  ## Measure what each part of the default is worth (docs/study_ablations.md without its section 9; hours)
	$(BIN)/python benchmarks/study_ablations.py --extra=300 \
		--extra-models glow-fashion_mnist glow-mnist vae-fashion_mnist vae-mnist

bench-metrics: $(VENV)/dev.stamp  ## Set the Fisher metrics beside each other (docs/study_metrics.md; hours)
	$(BIN)/python benchmarks/study_metrics.py

bench-runs: $(VENV)/dev.stamp  ## Train models again and measure what another run moves (docs/study_runs.md; hours)
	for run in vae-fashion_mnist-1 vae-fashion_mnist-2 vae-gtsrb-1 vae-gtsrb-2 vae-cifar10-1 vae-cifar10-2 \
			diffusion-gtsrb-1; do \
		model=$${run%-*}; seed=$${run##*-}; out=runs/further/$$model-seed$$seed; \
		[ -f $$out/model.json ] || $(BIN)/fisherscope train --config experiments/train/$$model.toml \
			--seed $$seed --out $$out || exit 1; \
	done
	$(BIN)/python benchmarks/study_runs.py --further runs/further

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
