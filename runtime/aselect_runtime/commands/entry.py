"""How every command of the project starts and ends: one entry point, one way of reporting errors.

    def _select(backbone: str, *, verbose: bool = False) -> None: ...

    select = entry(_select, examples=["aselect select shipped --data DATA"])

A library error names the parameter to change (`imgsz`); the command adds its option of that name (`--imgsz`).

Exit codes: 0 success; 1 an expected error, as one line on stderr; 2 usage; 3 a check (parity, accuracy) failed;
130 interrupted (Ctrl-C); 143 and 129 ended by SIGTERM and SIGHUP, in one line and with nothing half-written.
"""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aselect_runtime.commands.records import flattened
from aselect_runtime.commands.signals import Terminated, ended_by, raise_on_signals
from aselect_runtime.errors import AselectError, InputError, MissingDependencyError, WriteError
from aselect_runtime.files import WRITE_FAULTS
from aselect_runtime.progress import log_on_stderr, one_line

HALF_OPENCV = (
    "got an incomplete OpenCV, because one of two OpenCV wheels was uninstalled, expected a complete one; "
    "pip uninstall -y opencv-python opencv-python-headless && pip install --force-reinstall opencv-python-headless"
)


@dataclass(frozen=True)
class Command:
    """A command of the project. Called, it is a console script; `verb` is the same command as a part of `aselect`."""

    function: Callable[..., None]
    """Its parameters have typer annotations, or are dataclasses whose fields have them (see `flattened`).

    If it has a parameter `verbose`, that switches tracebacks on.
    """
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Sections of the help for less common options: title -> names of parameters. The other options come first."""
    examples: Sequence[str] = ()
    """Command lines that are shown at the end of the help."""

    def __call__(self) -> None:
        """Run the command with the arguments of this process, then exit."""
        print_in_any_coding()
        self.verb()()

    def verb(self) -> Any:
        """The command as a click command."""
        import typer

        from aselect_runtime.commands.help import WIDTH, GroupedCommand

        function = flattened(self.function)

        @functools.wraps(function)
        def guarded(**arguments: Any) -> None:
            with reporting(verbose=bool(arguments.get("verbose")), options=self.options):
                _refuse_empty(sys.argv[1:])
                function(**arguments)

        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        look = {"groups": self.groups, "examples": self.examples}
        settings = {"max_content_width": WIDTH}
        app.command(cls=type("Verb", (GroupedCommand,), look), context_settings=settings)(guarded)
        return typer.main.get_command(app)

    def options(self) -> set[str]:
        """The options, such as `--imgsz`."""
        return {name for option in self.verb().params for name in option.opts}


entry = Command


def print_in_any_coding() -> None:
    """Escape what the terminal's or file's coding does not have, as on stderr, instead of ending in a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _refuse_empty(words: Sequence[str]) -> None:
    """Raise InputError for an empty word, which a path would take as the working directory."""
    for before, word in zip(["", *words], words, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            where = f" in {word}" if word else f" after {before}" if before.startswith("-") else ""
            raise InputError(f"got an empty word{where}, expected text; set the variable that it comes from")


# pydantic reads the metadata of every installed distribution in search of plugins, of which this project has none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


@contextmanager
def reporting(*, verbose: bool, options: Callable[[], Collection[str]] = tuple) -> Iterator[None]:
    """Show the log on stderr, and turn expected errors into one line on stderr and an exit code.

    With `verbose` the traceback is printed first. The line ends with those of the command's `options` that belong to
    the error's parameters.

    Expected are AselectError, an optional package that is not installed, a full disk or missing permission, and
    Ctrl-C, SIGTERM and SIGHUP. Any other exception is a bug and is passed on.
    """
    _open_standard_streams()
    try:
        with log_on_stderr(), raise_on_signals():
            yield
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT
        with suppress(OSError):  # the terminal that was closed
            print("; ".join([ended_by(number), *map(str, interrupt.args)]), file=sys.stderr)
        raise SystemExit(128 + number) from None
    except AselectError as error:
        _report(error, verbose, _hint(error, options() if error.parameters else ()))
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("aselect_"):
            raise
        _report(_missing(error.name), verbose)
        raise SystemExit(MissingDependencyError.exit_code) from None
    except AttributeError as error:
        # A cv2 folder without its files, left by an uninstalled wheel, can still be imported as an empty package.
        if getattr(error.obj, "__name__", "") != "cv2" or getattr(error.obj, "__file__", None):
            raise
        _report(MissingDependencyError(HALF_OPENCV), verbose)
        raise SystemExit(MissingDependencyError.exit_code) from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not _has_working_folder():
            _report(InputError("got a deleted working folder, expected an existing one; cd to another folder"), verbose)
            raise SystemExit(InputError.exit_code) from None
        if error.errno not in WRITE_FAULTS:
            raise
        _report(_denied(error), verbose)
        raise SystemExit(WriteError.exit_code) from None


def _open_standard_streams() -> None:
    """Open /dev/null for standard streams that were closed (`2>&-`).

    Otherwise the next file that is opened gets the descriptor 2, and libraries write their messages into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    # print(…, file=None) would print to the standard output.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _has_working_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _missing(module: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"got no Python package {module!r}, expected it installed; install aselect-runtime with the extra "
        "cpu (or jetson) to run models, aselect-edge with the extra export to train and export them"
    )


def _denied(error: OSError) -> WriteError:
    place = error.filename or "the output"
    return WriteError(f"{place}: got {error.strerror!r}, expected a writable path; free space or choose another path")


def _hint(error: AselectError, options: Collection[str]) -> str:
    flags = ["--" + name.replace("_", "-") for name in error.parameters]
    named = [flag for flag in flags if flag in options]
    gone = isinstance(error, InputError) and not _has_working_folder()
    return (f" ({', '.join(named)})" if named else "") + ("; the working folder was deleted" if gone else "")


def _report(error: AselectError, verbose: bool, hint: str = "") -> None:
    if verbose:
        traceback.print_exc()
    print(f"error: {one_line(str(error) + hint)}", file=sys.stderr)
