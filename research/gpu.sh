#!/usr/bin/env bash
# The GPU run with the Python and torch that are installed: wheels of the pack beside them, a rehearsal, then the run.
#   research/gpu.sh PACK OUT SECONDS [further options of research.gpu_run]
set -euo pipefail
pack=$1 out=$2 seconds=$3
shift 3
site=${TMPDIR:-/tmp}/aselect-site
python3 - "$pack" "$site" <<'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as pack:
    for name in pack.namelist():
        if name.startswith("wheels/"):
            pack.extract(name, sys.argv[2] + "-wheels")
PY
if ls "$site-wheels"/wheels/*.whl > /dev/null 2>&1; then
  python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$site-wheels"/wheels/*.whl
fi
for wheel in "$(dirname "$pack")"/*.whl; do [ ! -e "$wheel" ] || python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$wheel"; done
export PYTHONPATH=$site:.:runtime:weights:calibration:export PYTHONUNBUFFERED=1 TORCHINDUCTOR_FX_GRAPH_CACHE=1
python3 -c "from PIL import features; assert features.check('avif'), 'Pillow without AVIF'; from diffusers import DDPMScheduler"
python3 -m research.gpu_run --help > /dev/null  # every package that the run imports is there
if [ ! -e build/gpu-run/rehearsed ]; then
  python3 -m research.gpu_run --pack "$pack" --out build/rehearsal --work build/rehearsal/state --seconds 150 \
    "$@" --pretrain-share 0.2 --small --workers 5
  python3 - <<'PY'
import json
figures = json.load(open("build/rehearsal/figures.json"))
assert not figures["errors"], figures["errors"]
assert figures["rows"], "no row was trained"
PY
  mkdir -p build/gpu-run
  mv build/rehearsal/state/data build/gpu-run/data
  touch build/gpu-run/rehearsed
fi
python3 -m research.gpu_run --pack "$pack" --out "$out" --work build/gpu-run --seconds "$((seconds - SECONDS))" "$@"
