"""supervision, in a separate environment under runs/: a peer for comparison, not a dependency."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "runs" / "supervision"
NEEDED = ("supervision==0.31.2", "opencv-python-headless", "pydantic", "typer", "rich")
"""Packages for the peer and this project's callback; constraints.txt pins their dependencies, OpenCV too."""
LOOP = """
import sys
import supervision
from benchmarks.runtime.efficiency import callback, timed
video, out, milliseconds, frames = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
with callback(milliseconds, out + ".jsonl") as act:
    delivered, seconds = timed(
        lambda counted: supervision.process_video(video, out + ".mp4", counted, max_frames=frames), act
    )
print(delivered / seconds)
"""


class PeerMissingError(Exception):
    """The peer cannot be installed here; the message gives the reason."""


def prepare() -> Path:
    """The Python that has supervision, installed if it is not there yet; raises PeerMissingError."""
    python = FOLDER / "bin" / "python"
    try:
        _run(sys.executable, "-m", "venv", str(FOLDER))
        _run(str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *NEEDED)
        _run(str(python), "-c", "import supervision, benchmarks.runtime.efficiency")
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no message").splitlines()[-1]
        raise PeerMissingError(f"not run: {last}") from error
    return python


def rate(python: Path, video: Path, milliseconds: float, frames: int, folder: Path) -> float:
    """Frames per second of supervision's process_video around this project's callback."""
    done = _run(str(python), "-c", LOOP, str(video), str(folder / "theirs"), str(milliseconds), str(frames))
    return float(done.split()[-1])


def _run(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "runtime")])}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
