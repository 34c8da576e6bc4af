"""What a process finds around itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tests.runtime import videos
from tests.runtime.situations.case import Make, Place, Run, lines
from tests.runtime.situations.commands import Done
from tests.runtime.situations.making import COUNT, SHARES, video


def _with(
    environment: Mapping[str, str] = MappingProxyType({}),
    before: str = "",
    shell: tuple[str, str] | None = None,
    name: str = "a.mp4",
    warned: str = "",
) -> Make:
    """All frames of a video arrive in the lines and in an overlay."""

    def make(place: Place) -> Run:
        path = video(place.folder / "first.mp4")
        path.rename(place.folder / name)

        def check(done: Done) -> None:
            assert len(videos.read(done.folder / "b.mp4")) == COUNT

        outputs = ("out.jsonl", "b.mp4")
        return Run(
            [name],
            outputs,
            shares=SHARES,
            environment=environment,
            before=before,
            shell=shell,
            check=check,
            warned=warned,
        )

    return make


def _closed_and_failing(_: Place) -> Run:
    """The exit code says it, and nothing lands in another file."""

    def check(done: Done) -> None:
        assert (done.stdout.strip(), done.stderr) == ("1", "")
        assert list(done.folder.iterdir()) == []

    return Run(["nowhere.mp4"], (), shell=('"$@" 2>&-; echo $?; exit 0;', ""), check=check)


def _deleted(place: Place) -> Run:
    path = video(place.folder.parent / "a.mp4")
    return Run([str(path)], told="got a deleted working folder, expected an existing one; cd to another", before=GONE)


def _deleted_relative(_: Place) -> Run:
    return Run(["a.mp4"], told="a.mp4: no such input.*; the working folder was deleted", before=GONE)


def _deleted_absolute(place: Place) -> Run:
    path = video(place.folder.parent / "a.mp4")
    out = place.folder.parent / "out.jsonl"

    def check(_: Done) -> None:
        assert len(out.read_text().splitlines()) == COUNT

    return Run([str(path)], [str(out)], before=GONE, check=check)


def _reader_leaves(_: Place) -> Run:
    """`head` closes the pipe after two lines: no error."""

    def check(done: Done) -> None:
        assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 1]

    street = "synthetic://street?size=48x64&frames=3000"
    return Run([street], ["-"], shell=('"$@" | head -n 2; exit 0;', ""), check=check, warned="frames in")


def _full_stdout(place: Place) -> Run:
    video(place.folder / "a.mp4")
    return Run(["a.mp4"], ["-"], shell=("", ">/dev/full"), told="-: could not write .No space left on device.*a .jsonl")


def _stopped(number: str) -> Make:
    """A signal completes the outputs, and the exit code is 0."""

    def make(_: Place) -> Run:
        def check(done: Done) -> None:
            count = len(lines(done))
            assert 0 < count < 1_000_000
            assert len(videos.read(done.folder / "b.mp4")) == count

        before = (
            "import threading, time, signal\n"
            "def send():\n"
            "    while not (os.path.exists('out.jsonl') and os.path.getsize('out.jsonl')): time.sleep(0.01)\n"
            f"    os.kill(os.getpid(), signal.{number})\n"
            "threading.Thread(target=send, daemon=True).start()"
        )
        street = "synthetic://street?size=48x64&frames=1000000"
        return Run([street], ("out.jsonl", "b.mp4"), before=before, check=check)

    return make


def _without(module: str, told: str, outputs: Sequence[str] = ("out.jsonl",)) -> Make:
    """A package that is not installed."""

    def make(place: Place) -> Run:
        video(place.folder / "a.mp4")
        before = f"[sys.modules.pop(name) for name in list(sys.modules) if name.split('.')[0] == {module!r}]\n"
        return Run(["a.mp4"], outputs, told=told, before=f"{before}sys.modules[{module!r}] = None")

    return make


def _read_only_home(place: Place) -> Run:
    home = place.folder / "home"
    home.mkdir()
    home.chmod(0o500)
    make = _with({"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")})
    run = make(place)
    assert isinstance(run, Run)
    return run


def _few_files(place: Place) -> Run:
    run = _with(before="import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))")(place)
    assert isinstance(run, Run)
    return run


GONE = "import os; os.rmdir(os.getcwd())"
WITHOUT_HOME = "os.environ.pop('HOME', None); os.environ.pop('XDG_CACHE_HOME', None)"
CASES: dict[str, Make] = {
    "LANG=C": _with({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}, shell=("", ""), name="été.mp4"),
    "Latin-1": _with({"PYTHONIOENCODING": "latin-1"}, shell=("", ""), name="映像.mp4"),
    "stderr closed": _with(shell=("", "2>&-")),
    "stdout closed": _with(shell=("", ">&-")),
    "all closed": _with(shell=("", "<&- >&- 2>&-")),
    "stderr closed, input missing": _closed_and_failing,
    "stdout full": _full_stdout,
    "reader leaves": _reader_leaves,
    "working folder deleted": _deleted,
    "working folder deleted, relative": _deleted_relative,
    "working folder deleted, absolute": _deleted_absolute,
    "no HOME": _with(before=WITHOUT_HOME),
    "HOME that does not exist": _with({"HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere/cache"}),
    "HOME read-only": _read_only_home,
    "no folder for temporary files": _with({"TMPDIR": "/nowhere"}),
    "dumb terminal": _with({"TERM": "dumb", "COLUMNS": "1"}),
    "no docstrings": _with({"PYTHONOPTIMIZE": "2"}, shell=("", "")),
    "warnings are errors": _with({"PYTHONWARNINGS": "error"}, shell=("", "")),
    "few open files": _few_files,
    "SIGINT": _stopped("SIGINT"),
    "SIGTERM": _stopped("SIGTERM"),
    "SIGHUP": _stopped("SIGHUP"),
    "no aiohttp": _without("aiohttp", "expected it for the live page; pip install", ("http://127.0.0.1:0",)),
    "no paho": _without("paho", "expected it for MQTT; pip install", ("mqtt://127.0.0.1/a",)),
    "no onnxruntime": _without("onnxruntime", "pip install onnxruntime"),
    "umask 777": _with(before="os.umask(0o077)"),
}
