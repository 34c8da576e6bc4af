"""The device's wheel on every Python that it is declared for, and on the oldest packages: `make test-pythons`.

    python -m tests.proof.pythons

Each environment is new and holds the wheel alone; tests/smoke.py runs there on a folder that was exported here. First
with the versions of constraints.txt, under Python 3.10 with NumPy 1.26 as on JetPack 6; then, on the oldest Python,
with the lower bound of each declared dependency, all extras of the CPU together. A Python that is not found is listed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement
from packaging.version import Version

from aselect_runtime.errors import GateError, MissingDependencyError
from tests.proof.steps import CONSTRAINTS, ROOT, Check, Seen, device_wheel, exported, found, prove, run

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
EXTRAS = "cpu,web,mqtt,metrics,record"
X86_EXTRAS = f"{EXTRAS},openvino"
PLATFORMS = {"x86_64-manylinux_2_28": X86_EXTRAS, "aarch64-manylinux_2_28": EXTRAS}
JETPACK_6 = {"3.10": ("numpy>=1.26,<2",)}


def main() -> None:
    """Run the proof."""
    prove("pythons", steps)


def steps(place: Path) -> Seen:
    """Everything, in an empty folder."""
    uv = uv_program()
    wheel = device_wheel(place)
    exported(place / "exported", "fp16", "--no-ladder")
    checks, ran = [resolved(uv, python) for python in PYTHONS], []
    for python in PYTHONS:
        interpreter = interpreter_of(python)
        if interpreter is None:
            checks.append(Check(f"smoke test, Python {python}", "not run: no such Python here"))
            continue
        constrained: list[str] = ["-c", str(CONSTRAINTS)] if python not in JETPACK_6 else []
        packages = [*JETPACK_6.get(python, ()), f"{wheel}[{own_extras()}]"]
        environment = environment_of(uv, interpreter, place / python, *constrained, *packages)
        smoke(environment, place)
        ran.append(said_by(environment, "import platform; print(platform.python_version())"))
        checks.append(Check(f"smoke test, Python {python}", "passed with " + installed(environment)))
    checks.append(floors(uv, wheel, place))
    return Seen({"uv": run([uv, "--version"]).split()[1], "Python": " and ".join(ran)}, tuple(checks))


def uv_program() -> str:
    """The path of uv, beside this Python or on the PATH; raises MissingDependencyError."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else found("uv", "pip install uv")


def interpreter_of(python: str) -> Path | None:
    """An interpreter of a minor version, from pyenv or the PATH; None where none starts."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [path / "bin" / "python" for path in sorted(versions.glob(f"{python}.*"), reverse=True)]
    system = shutil.which(f"python{python}")
    for path in [*places, *([Path(system)] if system else [])]:
        code = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
        asked = subprocess.run([path, "-I", "-c", code], capture_output=True, text=True, check=False)
        if asked.stdout.strip() == python:
            return path
    return None


def resolved(uv: str, python: str) -> Check:
    """There are wheels of the versions in constraints.txt for this Python, on both architectures."""
    wanted: list[str | Path] = [ROOT / "runtime" / "pyproject.toml", "-c", CONSTRAINTS, "--only-binary", ":all:"]
    for system, names in PLATFORMS.items():
        extras = [word for extra in names.split(",") for word in ("--extra", extra)]
        command = [uv, "pip", "compile", "--quiet", *wanted, *extras, "--python-platform", system]
        run([*command, "--python-version", python])
    return Check(f"constraints.txt, Python {python}", "wheels of every package for x86-64 and aarch64")


def environment_of(uv: str, interpreter: Path, folder: Path, *packages: str) -> Path:
    """A new environment with these packages, without a look at what is built or configured elsewhere."""
    run([uv, "venv", "--quiet", "--python", interpreter, folder])
    run([uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *packages])
    return folder


def smoke(environment: Path, place: Path) -> None:
    """tests/smoke.py, far from the sources; raises GateError with its last line."""
    run([environment / "bin" / "python", "-I", ROOT / "tests" / "smoke.py", "device", "exported"], cwd=place)


def floors(uv: str, wheel: Path, place: Path) -> Check:
    """The lower bound of every dependency that the extras declare, on the oldest Python."""
    python = project()["requires-python"].removeprefix(">=")
    interpreter = interpreter_of(python)
    if interpreter is None:
        raise MissingDependencyError(
            f"got no Python {python}, expected it for the lower bounds; pyenv install {python}"
        )
    # As requirements of their own: those of a wheel would not be direct ones.
    lowest = ("--resolution", "lowest-direct", *map(str, declared()))
    environment = environment_of(uv, interpreter, place / "floors", *lowest)
    run([uv, "pip", "install", "--quiet", "--no-deps", "--python", environment / "bin" / "python", wheel])
    names = json.dumps([need.name for need in declared()])
    code = f"import importlib.metadata as m, json; print(json.dumps([m.version(n) for n in {names}]))"
    for need, version in zip(declared(), json.loads(said_by(environment, code)), strict=True):
        if Version(version) != Version(lower_bound(need)):
            raise GateError(f"{need.name}: got {version}, expected {lower_bound(need)}; correct runtime/pyproject.toml")
    smoke(environment, place)
    what = f"smoke test, Python {python}, lower bounds of {len(declared())} dependencies"
    return Check(what, "passed with " + installed(environment))


def declared() -> list[Requirement]:
    """What the device's distribution and its extras need on the oldest Python."""
    needs = list(project()["dependencies"])
    for extra in own_extras().split(","):
        needs += project()["optional-dependencies"][extra]
    return [Requirement(need) for need in needs]


def own_extras() -> str:
    """The extras of this machine's processor."""
    return X86_EXTRAS if platform.machine() == "x86_64" else EXTRAS


def lower_bound(need: Requirement) -> str:
    """The version behind >=."""
    (bound,) = (part.version for part in need.specifier if part.operator == ">=")
    return bound


def project() -> dict[str, Any]:
    """The device's distribution, as it is declared."""
    content = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))
    return content["project"]


def installed(environment: Path) -> str:
    """The versions that matter most for a device."""
    names = {
        "numpy": "NumPy",
        "onnxruntime": "ONNX Runtime",
        "opencv-python-headless": "OpenCV",
        "pydantic": "pydantic",
    }
    code = f"import importlib.metadata as m; print(*[m.version(n) for n in {list(names)}])"
    return ", ".join(f"{n} {v}" for n, v in zip(names.values(), said_by(environment, code).split(), strict=True))


def said_by(environment: Path, code: str) -> str:
    """What a line of Python prints there."""
    return run([environment / "bin" / "python", "-I", "-c", code]).strip()


if __name__ == "__main__":
    main()
