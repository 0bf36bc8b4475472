"""The command line: `ragbeam <job>`, and `python -m pipelines.<job>`.

What this parser does not know goes to the Beam runner. Names use underscores, as Beam's do; hyphens are accepted.
Errors are one line on stderr: exit code 2 for bad usage or input, 1 for a failed job.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pipelines import telling
from rag_ops.errors import InputError, RagbeamError

PROGRAM = "ragbeam"
QUIET = {  # libraries that print bars and notices of their own unless told not to
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # its threads fight with torch's
}
EPILOG = "Flags that are not listed go to the Beam runner: --runner FlinkRunner --flink_master HOST:8081, say."


class Parser(argparse.ArgumentParser):
    """Argparse whose errors are ours, and which never guesses a flag from its beginning."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise InputError(message, remedy=f"see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = [normalise(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in arguments
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, format="%(name)s: %(message)s")
    logging.getLogger("ragbeam").setLevel(logging.INFO)
    logging.getLogger("rag_ops").setLevel(logging.INFO)
    try:
        log_format = telling.format_of(arguments)
    except InputError as error:
        return _fail(str(error), error.exit_code)
    with telling.as_json() if log_format == "json" else contextlib.nullcontext():
        return _run([argument for argument in arguments if argument != "--debug"], debug)


def _run(arguments: Sequence[str], debug: bool) -> int:
    """Parses and runs one command; its errors become lines and exit codes."""
    started = time.monotonic()
    try:
        parser = build_parser()
        known, rest = parser.parse_known_args(arguments)
        if known.command is None:
            parser.print_help()
            return 2
        if not debug:
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        telling.stage(known.command)
        telling.event("started", f"{PROGRAM} {known.command}", details={"version": _version().split()[-1]})
        code = known.run(known, rest) or 0
        telling.event("finished", f"{PROGRAM} {known.command}", {"seconds": round(time.monotonic() - started, 3)})
        return code
    except RagbeamError as error:
        if debug and not telling.is_json():
            raise
        return _fail(str(error), error.exit_code, trace=debug)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on where this one stopped", 130, kind="")
    except OSError as error:
        if debug and not telling.is_json():
            raise
        return _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", 1, trace=debug)


def _fail(line: str, code: int, kind: str = "error: ", trace: bool = False) -> int:
    """Says on stderr what went wrong, in the log format; `trace` adds the traceback of the exception in progress.

    Returns:
        The exit code.
    """
    if telling.is_json():
        telling.event("error", line, level=logging.ERROR, details={"exit_code": code}, trace=trace)
    else:
        sys.stderr.write(f"{PROGRAM}: {kind}{line}\n")
    return code


def normalise(argument: str) -> str:
    """A flag with underscores for hyphens; its value, and all that is no flag, as it is.

    >>> normalise("--num-shards=4-5"), normalise("some-file")
    ('--num_shards=4-5', 'some-file')
    """
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


def build_parser() -> Parser:
    """The parser of all commands."""
    from pipelines import commands

    parser = Parser(prog=PROGRAM, description=__doc__.split("\n\n")[0] if __doc__ else None, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in commands.COMMANDS:
        sub = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=EPILOG if command.takes_beam_flags else None,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_flags(sub)
        sub.add_argument(
            "--debug", action="store_true", help="show the traceback of an error, and the runner's own log"
        )
        sub.add_argument(
            telling.FLAG,
            default="text",
            metavar="FORMAT",
            help="of the lines on stderr: text, or json (an object each)",
        )
        sub.set_defaults(run=_runner(command))
    return parser


def _runner(command: Any) -> Callable[[argparse.Namespace, list[str]], int]:
    def run(known: argparse.Namespace, rest: list[str]) -> int:
        if rest and not command.takes_beam_flags:
            raise InputError("unknown argument", value=rest[0], remedy=f"see {PROGRAM} {command.name} --help")
        return command.run(known, rest)

    return run


def _version() -> str:
    from importlib import metadata

    try:
        return f"{PROGRAM} {metadata.version(PROGRAM)}"
    except metadata.PackageNotFoundError:
        return f"{PROGRAM} (not installed)"


if __name__ == "__main__":
    sys.exit(main())
