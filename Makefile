VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test check setup clean

run: setup      ## set everything up and run the main job
	$(BIN)/harness run suites/math_code_chat

test: check     ## set everything up and run the tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 25

check: setup    ## style, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml tools/setup.sh
	bash tools/setup.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
