"""Smoke test of the installed wheel, run by `make test-wheel` far from the sources.

python smoke.py offline FOLDER   exports the shipped bundle to FOLDER and evaluates nothing else
python smoke.py runtime FOLDER   runs FOLDER on a synthetic street, in an environment without torch
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path


def command(name: str, *arguments: str) -> str:
    """Run an installed console command and return its standard output."""
    result = subprocess.run(
        [str(Path(sys.executable).parent / name), *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"{name} {' '.join(arguments)}: exit {result.returncode}\n{result.stderr}")
    return result.stdout


def offline(folder: str) -> None:
    """Everything that an engineer's workstation has."""
    summary = json.loads(command("aselect-export", "--task", "seg", "--precision", "fp16", "--out", folder, "--json"))
    assert (Path(folder) / "manifest.json").is_file(), summary
    for name in ("aselect-select", "aselect-train", "aselect-eval"):
        command(name, "--help")
    runtime(folder)


def runtime(folder: str) -> None:
    """Everything that a device has."""
    street = "synthetic://street?size=180x240"
    summary = command("aselect-run", folder, street, "--max-frames", "5", "--output", "lines.jsonl", "--json")
    assert json.loads(summary)["frames"] == 5, summary
    lines = [json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert abs(sum(lines[0]["areas"].values()) - 1) < 1e-3, lines[0]


if __name__ == "__main__":
    import aselect_edge

    assert "site-packages" in aselect_edge.__file__, f"not the installed wheel: {aselect_edge.__file__}"
    if sys.argv[1] == "runtime":
        assert importlib.util.find_spec("torch") is None, "torch is installed, expected the runtime's packages alone"
    {"offline": offline, "runtime": runtime}[sys.argv[1]](sys.argv[2])
    print(f"smoke test passed: {sys.argv[1]}")
