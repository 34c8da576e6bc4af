"""Smoke test of the installed wheels, run by `make test-wheel` far from the sources.

python smoke.py workstation FOLDER   exports the shipped bundle to FOLDER and evaluates nothing else
python smoke.py device FOLDER        runs FOLDER on a synthetic street, where the runtime alone is installed
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from aselect_runtime.backends import usable_devices


def command(name: str, *arguments: str) -> str:
    """Run an installed console command and return its standard output."""
    result = subprocess.run(
        [str(Path(sys.executable).parent / name), *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"{name} {' '.join(arguments)}: exit {result.returncode}\n{result.stderr}")
    return result.stdout


def workstation(folder: str) -> None:
    """Everything that an engineer's workstation has."""
    summary = json.loads(command("aselect-export", "--task", "seg", "--precision", "fp16", "--out", folder, "--json"))
    assert (Path(folder) / "manifest.json").is_file(), summary
    for name in ("select", "train", "eval"):
        command(f"aselect-{name}", "--help")
        command("aselect", name, "--help")
    device(folder)


def device(folder: str) -> None:
    """Everything that a device has."""
    street = "synthetic://street?size=180x240"
    summary = command("aselect-run", folder, street, "--max-frames", "5", "--output", "lines.jsonl", "--json")
    assert json.loads(summary)["frames"] == 5, summary
    lines = [json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert abs(sum(lines[0]["areas"].values()) - 1) < 1e-3, lines[0]
    for usable in usable_devices(Path(folder)):
        again = command("aselect", "run", folder, street, "--max-frames", "5", "--device", usable, "--json")
        assert json.loads(again)["frames"] == 5, again


def alone() -> None:
    """Nothing is here that a device does not need."""
    for module in ("torch", "diffusers", "transformers", "onnx", "safetensors", "matplotlib"):
        assert importlib.util.find_spec(module) is None, f"{module} is installed, expected the runtime's packages alone"
    assert (importlib.resources.files("aselect_runtime.sinks") / "page" / "index.html").is_file()
    for room in ("aselect_edge", "aselect_weights", "aselect_calibration", "aselect_export", "research"):
        assert importlib.util.find_spec(room) is None, f"{room} is installed, expected aselect_runtime alone"
    missing = subprocess.run(
        [str(Path(sys.executable).parent / "aselect"), "select"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1, missing
    assert "install aselect-edge with the extra train" in missing.stderr, missing


if __name__ == "__main__":
    import aselect_runtime

    assert "site-packages" in aselect_runtime.__file__, f"not the installed wheel: {aselect_runtime.__file__}"
    if sys.argv[1] == "device":
        alone()
    {"workstation": workstation, "device": device}[sys.argv[1]](sys.argv[2])
    print(f"smoke test passed: {sys.argv[1]}")
