# Every target does its own set-up: it finds a Python, makes .venv and installs into it, once.
# Needs: Linux, Python 3.11-3.13 with its venv module. Override the choice with PYTHON=/path/to/python.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench bench-e2b clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := train,cloud,blur,litert,serve,lerobot,dev
ARGS ?=
PYTHON ?=

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(STAMP) ## Make .venv and install the project into it

demo: $(STAMP) ## The whole story on a simulated robot; options: make demo ARGS="--shift trim --seed 3"
	$(BIN)/continuonbrain demo $(ARGS)

# One thread each for matrix products, in numpy and in torch: the workers share the cores, and on a busy machine a second
# thread takes twice the processor time for the same. Many tests start processes: these find modules compiled.
test: $(STAMP) ## All tests but the longest; options: make test ARGS="-m 'long or slow' -x"
	PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## Run every benchmarks/bench_*.py
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

bench-e2b: $(STAMP) ## The trainer at the size of Gemma 3n E2B: half an hour, 16 GB of memory, 10 GB of disk
	$(BIN)/python -m benchmarks.lora_exact
	$(BIN)/python -m benchmarks.lora_step --batch 8 --tokens 128
	$(BIN)/python -m benchmarks.lora_step --batch 8 --tokens 320
	$(BIN)/python -m benchmarks.lora_step --batch 1 --tokens 320
	$(BIN)/python -m benchmarks.train_memory
	$(BIN)/python -m benchmarks.train_total --epochs 10

clean: ## Remove .venv and the tools' caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@python=$$(PYTHON="$(PYTHON)" deploy/find-python.sh); \
	echo "==> Python: $$python ($$("$$python" --version))"; \
	if ! "$(BIN)/python" -c 'import pip' 2>/dev/null; then \
	  echo "==> creating $(VENV)"; \
	  "$$python" -m venv --clear "$(VENV)"; \
	fi
	@echo "==> installing .[$(EXTRAS)] (the first time this downloads torch and takes some minutes;"
	@echo "    on x86-64 set PIP_EXTRA_INDEX_URL to PyTorch's CPU wheels first to spare the CUDA libraries)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on \
	  --constraint constraints.txt --editable ".[$(EXTRAS)]" \
	  || { echo "==> installation failed: read the last lines above; 'make clean' starts afresh" >&2; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt evdev 2>/dev/null \
	  || echo "==> evdev was not built (it needs a C compiler and the kernel's headers): tests of gamepads are skipped"
	@touch $(STAMP)
	@echo "==> installed"
