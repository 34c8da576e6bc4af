"""Nothing that runs here calls the makers of its libraries: no name is looked up, no identity is stored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LISTENER = r"""
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    (void)service; (void)hints; (void)found;
    int file = open(getenv("LOOKUPS"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (name && file >= 0 && write(file, name, strlen(name)) > 0 && write(file, "\n", 1) > 0) close(file);
    return EAI_FAIL;
}
"""
LOADED = (
    "import os, sys, {room}; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1' == os.environ["
    "'HF_HUB_DISABLE_TELEMETRY']; assert not {{'onnxruntime', 'openvino', 'huggingface_hub'}} & sys.modules.keys()"
)
Watched = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """Runs Python; returns the names that were looked up and the files that appeared in the home folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler is needed to watch name look-ups")
    source, library, lookups, home = (tmp_path / name for name in ("stub.c", "stub.so", "lookups", "home"))
    source.write_text(LISTENER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    environment = kept | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LD_PRELOAD": str(library),
        "LOOKUPS": str(lookups),
    }

    def run(*arguments: str) -> tuple[list[str], list[str]]:
        subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True, timeout=120)
        names = lookups.read_text().split() if lookups.exists() else []
        return names, [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]

    return run


@pytest.mark.parametrize(
    "room", ["aselect_runtime", "aselect_edge", "aselect_calibration", "aselect_export", "research", "benchmarks"]
)
def test_each_package_switches_telemetry_off_before_it_loads_anything(room: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    subprocess.run([sys.executable, "-c", LOADED.format(room=room)], env=environment, check=True)


def test_the_check_detects_lookups_and_files_of_a_library(watched: Watched) -> None:
    names, _ = watched("-c", "import socket\ntry: socket.getaddrinfo('telemetry.example', 443)\nexcept OSError: pass")
    assert names == ["telemetry.example"]


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_run_resolves_no_host_name_and_stores_no_identity(watched: Watched, seg_model: Path, device: str) -> None:
    pytest.importorskip({"cpu": "onnxruntime", "openvino": "openvino"}[device])
    command = "from aselect_runtime.commands.run import run; run()"
    arguments = [str(seg_model), "synthetic://street?frames=5", "--device", device]
    names, stored = watched("-c", command, *arguments)
    assert names == []
    assert [path for path in stored if "/aselect-edge/openvino/" not in path] == []  # the compiled model is kept there
