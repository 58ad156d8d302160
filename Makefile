# make demo       from a fresh clone to a real evaluation: installs into .venv, makes and evaluates the demo models
# make test       the fast tests;  make test-all  adds the slow ones;  make check  lint, types and task files
#                 make test WORKERS=4 ARGS="tests/test_cli.py -x"   in so many processes (as many as cores), some of them
# make story      the seeds' claims, tested in the small world (half an hour): docs/story.md, the board in build/story
#                 make story ARGS=repeats=2   and again with two other random seeds
#
# In a container that has its own torch (ROCm, CUDA): make demo VENV_FLAGS=--system-site-packages
# Another Python or place: make demo PYTHON=python3.12 VENV=/scratch/me/estbench

VENV ?= .venv
PYTHON ?=
VENV_FLAGS ?=
ARGS ?=
# A core each, but no more than memory for them is likely to be there: 1 to 2 GB. `nproc` would read OMP_NUM_THREADS.
WORKERS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc); echo $$((n < 8 ? n : 8)))
BIN := $(VENV)/bin
PINS := pyproject.toml requirements/torch.txt scripts/install.sh
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
export VENV PYTHON VENV_FLAGS

.PHONY: demo story test test-slow test-all check requirements clean

demo: $(VENV)/.demo
	@$(BIN)/estbench eval model=demo tasks=mini output=table
	@echo
	@echo 'More models for the board:'
	@$(BIN)/python -m estbench.demo
	@echo
	@echo 'The board: estbench serve opens it at http://127.0.0.1:8000'
	@echo 'Before you type these, once a terminal: source $(BIN)/activate'

story: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m estbench_training.story $(ARGS)

test: $(VENV)/.dev
	@$(PYTEST) -n $(WORKERS) $(ARGS)

test-slow: $(VENV)/.dev
	@$(PYTEST) -n $(WORKERS) -m 'slow and not soak' $(ARGS)

test-all: test test-slow

check: $(VENV)/.dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo 'Not formatted; $(BIN)/ruff format . mends it:'; $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/estbench tasks check output=json >/dev/null || { $(BIN)/estbench tasks check output=table; exit 1; }

requirements: $(VENV)/.dev
	@scripts/requirements.sh

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is refreshed only when a pin, a range or the installer changed.
$(VENV)/.%: requirements/%.txt $(PINS)
	@scripts/install.sh $*
	@touch $@
