# Two commands: `make demo` shows it, `make test` proves it. Both set up their own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-wheel bench setup format clean

demo: setup
	@rm -rf demo && mkdir -p demo
	$(BIN)/aselect-export --task seg --precision fp16 --out demo/seg-fp16
	$(BIN)/aselect-run demo/seg-fp16 synthetic://street --max-frames 181 \
		--output demo/street.mp4 --output demo/street.jsonl --output demo/street.png
	@echo
	@echo "video    demo/street.mp4"
	@echo "results  demo/street.jsonl"
	@echo "picture  demo/street.png"

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

# The wheel as a stranger gets it: once with the offline extras, once with the runtime's alone.
test-wheel: setup
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel .
	@test -z "$$(find build/wheel -name '*.whl' -size +40000000c)" || { echo "got a wheel of more than 40 MB"; exit 1; }
	$(PYTHON) -m venv build/wheel/offline
	build/wheel/offline/bin/pip install -q -c constraints.txt "$$(ls build/wheel/*.whl)[export]"
	$(PYTHON) -m venv build/wheel/runtime
	build/wheel/runtime/bin/pip install -q -c constraints.txt "$$(ls build/wheel/*.whl)[cpu]"
	cd build/wheel && offline/bin/python ../../tests/smoke.py offline exported
	cd build/wheel && runtime/bin/python ../../tests/smoke.py runtime exported

bench: setup
	$(BIN)/python -m benchmarks.main_job

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist demo *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
