"""The user's cache folder, also of a user without a home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aselect_runtime.local_cache import cache_folder

WITHOUT_HOME = """
import os
from aselect_runtime.local_cache import cache_folder
from aselect_runtime.sessions.compiled import compiled
os.setuid(54321)
print(compiled(cache_folder("openvino") / "key", lambda place: place or "compiled, not stored"))
"""


def test_the_folder_is_below_xdg_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("a") == tmp_path / "aselect-edge" / "a"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("a") == tmp_path / ".cache" / "aselect-edge" / "a"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming an unknown user needs root")
def test_a_user_without_a_home_runs_models_and_stores_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"HOME", "XDG_CACHE_HOME"}}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", WITHOUT_HOME]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "compiled, not stored\n", "")
