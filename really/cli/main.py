"""The command `really`: finds the command that is asked for, and tells errors on one line."""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from really import __version__
from really.cli import bench, check, compare, export, film, head, info, plot, sql
from really.errors import ReallyError, one_of

COMMANDS: tuple[ModuleType, ...] = (info, head, sql, export, film, plot, compare, check, bench)
FAILED, INTERRUPTED = 2, 130
EPILOG = """examples:
  really info runs/buffer              what is in a buffer, a checkpoint, a saved model
  really COMMAND --help                examples of a command
  eval "$(really --completion)"        completion of commands in bash
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the error and ends with code 2."""
        self.exit(FAILED, f"{self.prog}: {message}; {self.prog} --help shows examples\n")


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser("really", epilog=EPILOG, description="Looks into the files of really.", formatter_class=_AsWritten)
    top.add_argument("--version", action="version", version=f"really {__version__}")
    words = " ".join(map(_name, COMMANDS))
    top.add_argument(
        "--completion", action="version", version=f"complete -o default -W '{words}' really", help="print it for bash"
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for module in COMMANDS:
        examples = "examples:\n" + textwrap.indent(module.EXAMPLES, "  ")
        doc = str(module.__doc__).partition(": ")[2].strip()
        own = commands.add_parser(
            _name(module), help=doc.splitlines()[0], description=doc, epilog=examples, formatter_class=_AsWritten
        )
        module.add_arguments(own)
        own.set_defaults(run=module.run, prog=own.prog)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0, 2 after an error, 130 after an interrupt."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    top = parser()
    command = next((word for word in words if not word.startswith("-")), None)  # no option of `top` takes a value
    names = [_name(module) for module in COMMANDS]
    if command is not None and command not in names:
        top.error(one_of("COMMAND", command, names).rstrip("."))
    given = top.parse_args(words)
    try:
        given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ReallyError, OSError) as error:
        print(f"{given.prog}: {_line(error)}", file=sys.stderr)
        return FAILED
    return 0


def _line(error: Exception) -> str:
    """The message on one line; instead of the traceback in it the place in the user's code."""
    message, traceback_follows, _ = str(error).partition("\n\nOriginal traceback:")
    place = _users_place(error.__cause__) if traceback_follows else ""
    return " ".join(f"{message}{place}".split())


def _users_place(error: BaseException | None) -> str:
    """The last place in a traceback that is neither in this package nor in an installed one; "" if there is none."""
    frames = [] if error is None else traceback.extract_tb(error.__traceback__)
    installed = (sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    others = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], *installed))
    # Python's own parts have names in brackets, and compiled modules the relative paths of their sources.
    own = [frame for frame in frames if os.path.isabs(frame.filename) and not frame.filename.startswith(others)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


class _AsWritten(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples."""


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
