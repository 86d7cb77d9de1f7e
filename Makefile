VENV ?= .venv
BIN := $(VENV)/bin
# Exact versions to install; LOCK=none takes the newest that pyproject.toml allows.
LOCK ?= requirements.lock
READY := $(VENV)/ready-$(notdir $(LOCK))

.PHONY: run test quick check setup lock clean missing

run: setup      ## set everything up and run the main job
	$(BIN)/harness run suites/math_code_chat

test: check     ## set everything up and run the tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 25

# What `make quick` runs: tests that take seconds together, once the simulator is compiled.
LONGER = truth capacity own_policies admission policies compilation
QUICK ?= tests/simulator $(LONGER:%=--ignore=tests/simulator/test_%.py) tests/results/test_figures.py tests/test_imports.py

quick: setup    ## tests after an edit, a minute; QUICK=tests/drafters for those of another room
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not ray and not browser" $(QUICK)

check: setup    ## style, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)

# A lock that is missing is no reason to go on with an environment made before: setup.sh says so.
$(READY): pyproject.toml tools/setup.sh tools/torch.txt $(if $(filter-out none lowest,$(LOCK)),$(or $(wildcard $(LOCK)),missing))
	@rm -f $(VENV)/ready*
	bash tools/setup.sh $(VENV) $(LOCK)
	touch $@

lock:           ## write requirements.lock; LOCK_OPTIONS=--upgrade takes the newest
	bash tools/lock.sh $(LOCK_OPTIONS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
