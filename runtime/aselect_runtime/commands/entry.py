"""How every command of the house starts and ends: one entry point, one way of reporting errors.

    def _select(backbone: str, *, verbose: bool = False) -> None: ...

    select = entry(_select)

Exit codes: 0 done; 1 an error of ours, as one line on stderr; 2 usage; 3 a gate failed; 130 interrupted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aselect_runtime.errors import AselectError, MissingDependencyError, WriteError
from aselect_runtime.files import WRITE_FAULTS
from aselect_runtime.progress import log_on_stderr


def entry(function: Callable[..., None]) -> Callable[[], None]:
    """The console entry point of a command, with arguments and options from the function's typer annotations.

    If the function has a parameter `verbose`, it also decides whether errors show their traceback.
    """

    @functools.wraps(function)
    def guarded(**arguments: Any) -> None:
        with reporting(verbose=bool(arguments.get("verbose"))):
            function(**arguments)

    def main() -> None:
        import typer

        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command()(guarded)
        app()

    main.__doc__ = function.__doc__
    return main


@contextmanager
def reporting(*, verbose: bool) -> Iterator[None]:
    """Show the log on stderr, and turn expected errors into one line there and the exit code.

    With `verbose` an error's traceback comes first.

    Expected are AselectError, an optional package that is not installed, a full disk or missing permission, and
    Ctrl-C. All else is a bug and passes through.
    """
    try:
        with log_on_stderr():
            yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except AselectError as error:
        _report(error, verbose)
        raise SystemExit(error.exit_code) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("aselect_"):
            raise
        _report(_missing(error.name), verbose)
        raise SystemExit(MissingDependencyError.exit_code) from None
    except OSError as error:
        if error.errno not in WRITE_FAULTS:
            raise
        _report(_denied(error), verbose)
        raise SystemExit(WriteError.exit_code) from None


def _missing(module: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"got no Python package {module!r}, expected it installed; install aselect-runtime with the extra "
        "cpu (or jetson) to run models, aselect-edge with the extra export to train and export them"
    )


def _denied(error: OSError) -> WriteError:
    place = error.filename or "the output"
    return WriteError(f"{place}: got {error.strerror!r}, expected a usable place; free space or choose another path")


def _report(error: AselectError, verbose: bool) -> None:
    if verbose:
        import traceback

        traceback.print_exc()
    # Messages can quote file names and library errors: keep them on one line and free of terminal escapes.
    line = " ".join(str(error).split())
    print("error: " + "".join(char if char.isprintable() else "?" for char in line), file=sys.stderr)
