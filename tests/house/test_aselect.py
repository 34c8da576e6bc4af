"""`aselect VERB`: every command of the project as a subcommand, for any installed part, as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from aselect_runtime import __version__
from aselect_runtime.commands.app import GROUP
from tests.house.help_pages import ENTRIES, help_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None  # type: ignore[assignment]

ROOT = Path(__file__).parents[2]
VERBS = ("init", "select", "train", "distil", "export", "eval", "build", "run", "bench", "doctor")
WORKSTATION = {
    **dict.fromkeys(("init", "select", "train", "distil"), "train"),
    **dict.fromkeys(("export", "eval"), "export"),
}
"""The verbs that a device lacks, and the extra that brings each."""
HEAVY = ("torch", "cv2", "onnxruntime", "onnx", "numpy", "pydantic")
MAIN = "from aselect_runtime.commands.app import main\n"
ALONE = "import importlib.metadata as metadata\nmetadata.entry_points = lambda **_: ()\n"
"""As where the runtime is the only distribution."""

pytestmark = pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the entry points that pyproject.toml declares, as an installation has them."""
    folder = tmp_path_factory.mktemp("installed")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = folder / f"aselect_edge-{__version__}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: aselect-edge\nVersion: {__version__}\n")
    points = [f"{name} = {value}" for name, value in project["entry-points"][GROUP].items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points]))
    return folder


def aselect(
    code: str, *arguments: str, path: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        **(variables or {}),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(path or ""), inherited])),
    }
    command = [sys.executable, "-c", f"import sys\nsys.argv[0] = 'aselect'\n{code}{MAIN}main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.mark.parametrize("alone", [False, True])
def test_help_lists_every_verb_and_loads_none(installed: Path, alone: bool) -> None:
    told = f"import atexit\natexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
    done = aselect(told + (ALONE if alone else ""), "--help", path=installed)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.partition("Commands:\n")[2].splitlines() if line[2:3].isalpha()]
    assert tuple(listed) == VERBS
    assert done.stderr == "[]\n"
    assert "--install-completion" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_the_command_of_that_name(installed: Path, verb: str) -> None:
    projects = [tomllib.loads((ROOT / place / "pyproject.toml").read_text())["project"] for place in ("", "runtime")]
    (script,) = [place for project in projects if (place := project["scripts"].get(f"aselect-{verb}"))]
    assert script == ENTRIES[f"aselect-{verb}"]
    assert projects[0]["entry-points"][GROUP].get(verb, script) == script
    done = aselect("", verb, "--help", path=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout == help_of(f"aselect-{verb}", f"aselect {verb}")


@pytest.mark.parametrize("verb", WORKSTATION)
@pytest.mark.parametrize("arguments", [[], ["--help"], ["--data", "DIR"]])
def test_a_verb_that_is_missing_says_what_to_install(verb: str, arguments: list[str]) -> None:
    done = aselect(ALONE, verb, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: got the command '{verb}'")
    assert f"install aselect-edge with the extra {WORKSTATION[verb]}" in done.stderr
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert WORKSTATION[verb] in extras


def test_exit_codes_are_those_of_the_command(installed: Path, seg_model: Path) -> None:
    assert aselect("", path=installed).returncode == 2
    assert aselect("", "rnu", path=installed).returncode == 2
    assert aselect("", "run", "--device", "abacus", path=installed).returncode == 2
    failed = aselect("", "run", "no-model", "synthetic://street", path=installed)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    done = aselect(ALONE, "run", str(seg_model), "synthetic://street?size=48x64&frames=2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["frames"] == 2


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("aselect b", ["build", "bench"]),
        ("aselect run --max-f", ["--max-frames"]),
        ("aselect export --task seg --precision ", ["fp32", "fp16", "int8", "fp8"]),
    ],
)
def test_a_shell_completes_verbs_options_and_values(installed: Path, typed: str, offered: list[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_ASELECT_COMPLETE": "complete_bash"}
    done = aselect("", path=installed, variables=words)
    assert done.stdout.split() == offered


def test_completion_of_a_verb_that_is_missing_is_silent() -> None:
    words = {"COMP_WORDS": "aselect select --da", "COMP_CWORD": "2", "_ASELECT_COMPLETE": "complete_bash"}
    done = aselect(ALONE, variables=words)
    assert (done.stdout.strip(), done.stderr) == ("", "")
