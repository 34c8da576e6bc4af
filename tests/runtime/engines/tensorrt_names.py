"""The Python names of each TensorRT version, read from NVIDIA's own bindings; writes tensorrt_names.json.

    python -m tests.runtime.engines.tensorrt_names

The wheels `tensorrt-cu12-bindings` on PyPI hold the bindings of one version without its libraries (1 MB). They import
against three empty libraries, made here with the C compiler, and then tell which classes and members they have.
Nothing can be run that way. Linux x86-64, the wheels' Python version, pip and cc are needed; the tests only read the
JSON file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = {"10.3": "10.3.0", "10.13": "10.13.3.9", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}
CLASSES = (
    "Builder",
    "BuilderFlag",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "ILogger",
    "INetworkDefinition",
    "IProgressMonitor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
FILE = Path(__file__).with_suffix(".json")

LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
READ = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
public = lambda thing: [name for name in dir(thing) if not name.startswith("_")]
print(json.dumps({"module": public(module)} | {name: public(getattr(module, name)) for name in sys.argv[2:]}))
"""


def main() -> None:
    """Fetch the wheels, read them and write the table."""
    table: dict[str, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for version, wheel in VERSIONS.items():
            for kind, names in names_of(Path(folder) / version, wheel).items():
                for name in names:
                    table.setdefault(kind, {}).setdefault(name, []).append(version)
    lines = {
        kind: {name: " ".join(versions) for name, versions in sorted(members.items())}
        for kind, members in table.items()
    }
    FILE.write_text(json.dumps({"versions": VERSIONS, "names": lines}, indent=1) + "\n")


def names_of(folder: Path, wheel: str) -> dict[str, list[str]]:
    """The public names of the module and of each class, of one version."""
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*pip, f"tensorrt-cu12-bindings=={wheel}"], check=True)
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
    (folder / "empty.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        file = f"lib{library}.so.{wheel.split('.')[0]}"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", file, f"-Wl,-soname,{file}", "empty.c"], cwd=folder, check=True)
    module = next(folder.rglob("tensorrt.so"))
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    read = [sys.executable, "-c", READ, str(module), *CLASSES]
    names: dict[str, list[str]] = json.loads(subprocess.check_output(read, env=environment))
    names["module"] += re.findall(r"^def (\w+)", (module.parent / "__init__.py").read_text(), re.MULTILINE)
    return names


if __name__ == "__main__":
    main()
