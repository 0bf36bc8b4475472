"""How a command is run: flags into options, every error one line on stderr, and an exit code.

The exit code is 2 for bad usage or input, 1 for a failed job, and 128 and the signal's number (130 for Ctrl-C) when the
process was asked to end. Flags that a command does not know go to the Beam runner; what that does not know either is
refused. Names use underscores, as Beam's do; hyphens are accepted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from pipelines import interrupts
from pipelines.console import events, streams
from pipelines.console.options import Parser, add_flags
from rag_ops import machine, settings
from rag_ops.compute.cores import cores
from rag_ops.errors import InputError, JobError, NoMemoryError, RagbeamError, UnknownArgumentError
from rag_ops.redaction import public_text
from rag_ops.storage import places

PROGRAM = "ragbeam"
INTERRUPTED = 130
QUIET = {  # libraries that print bars and notices of their own unless switched off
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # its threads fight with torch's
}
# glibc gives up to eight arenas a core to the threads of a process, and each keeps pieces of what a shard took, so that
# a worker grew by 20 MB a shard until all had some. It asks when a process starts: this is for those that this one
# starts. One for a core takes no more time than eight.
ARENAS = "MALLOC_ARENA_MAX"
STORE_CLIENTS = ("aiohttp", "botocore", "gcsfs", "google")  # their errors, of credentials say, are no OSError
CLIENT_LOGGERS = ("gcsfs", "s3fs", "aiobotocore", "botocore", "google", "urllib3")  # log what they raise, at length
EPILOG = "Flags that are not listed go to the Beam runner: --runner FlinkRunner --flink_master HOST:8081, say."


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        name: name as it is typed.
        summary: one line for the list of commands.
        description: a sentence for the command's own help.
        add_flags: function that adds its flags to a parser, but those of the fields in `without`.
        make: function from given flags, by name, to its options; values by the fields' names overrule.
        run: function from these options and the Beam runner's flags to the exit code, or None for 0.
        takes_beam_flags: whether flags that it does not know go to the Beam runner.
    """

    name: str
    summary: str
    description: str
    add_flags: Callable[..., None]
    make: Callable[..., Any]
    run: Callable[[Any, Sequence[str]], int | None]
    takes_beam_flags: bool = True

    @classmethod
    def of(
        cls, name: str, summary: str, description: str, options: type, run: Callable[..., int | None], **more: Any
    ) -> Command:
        """A command whose options are one dataclass of settings."""
        flags, make = partial(add_flags, cls=options), partial(settings.make, options)
        return cls(name, summary, description, flags, make, run, **more)

    def execute(self, options: Any, beam_arguments: Sequence[str] = ()) -> int | None:
        """Runs the command with its options; returns what `run` does.

        Raises:
            JobError: the machine failed; for want of memory, the line names the flags that lower the need of it.
        """
        try:
            return self.run(options, beam_arguments)
        except Exception as error:
            fault = error if isinstance(error, RagbeamError) else machine.fault_of(error)
            if isinstance(fault, NoMemoryError):
                flags = ", ".join(settings.memory_flags(type(options)))
                lower = f"lower one of {flags}, or give" if flags else "give"
                raise JobError(str(fault), remedy=f"{lower} the machine more memory; {machine.RESUME}") from error
            if fault is None or fault is error:
                raise
            raise fault from error

    def flags(self) -> list[str]:
        """The flags of the command's own."""
        parser = Parser()
        self.add_flags(parser)
        return sorted(parser.flags)

    def help(self) -> str:
        """The remedy for bad usage."""
        return f"see {PROGRAM} {self.name} --help"

    def main(self) -> NoReturn:
        """Runs the command with the arguments of the process: what `python -m pipelines.<job>` does."""
        sys.exit(main([self], [self.name, *sys.argv[1:]], whole_process=True))


def say(line: str) -> None:
    """Writes a line to stdout."""
    sys.stdout.write(public_text(line) + "\n")
    sys.stdout.flush()


def main(commands: Sequence[Command], arguments: Sequence[str], whole_process: bool = False) -> int:
    """Runs the command that the arguments name; returns its exit code.

    Args:
        commands: the commands that there are.
        arguments: the command's name, and its flags.
        whole_process: whether the process is there for this command alone: its streams and signals are taken over.
    """
    if not whole_process:
        return _main(commands, arguments, lasts=True)
    streams.keep()
    interrupts.begin(_say_end)
    try:
        code = _main(commands, arguments, lasts=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    return interrupts.end(code, _say_end)


def _main(commands: Sequence[Command], arguments: Sequence[str], lasts: bool) -> int:
    arguments = [normalise(argument) for argument in arguments]
    debug = "--debug" in arguments
    for name, value in {**QUIET, ARENAS: str(max(2, cores()))}.items():
        os.environ.setdefault(name, value)
    console = logging.StreamHandler()
    console.setFormatter(events.TextLines("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, handlers=[console])
    events.report_uncaught()
    logging.getLogger("ragbeam").setLevel(logging.INFO)
    logging.getLogger("rag_ops").setLevel(logging.INFO)
    if not debug:
        for name in CLIENT_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        log_format = events.format_of(arguments)
    except InputError as error:
        return _fail(str(error), error.exit_code)
    with events.as_json() if log_format == "json" else contextlib.nullcontext():
        return _run(commands, [argument for argument in arguments if argument != "--debug"], debug, lasts)


def _run(commands: Sequence[Command], arguments: Sequence[str], debug: bool, lasts: bool) -> int:
    """Parses and runs one command; its errors become lines and exit codes."""
    started = time.monotonic()
    try:
        if odd := [argument for argument in arguments if not _is_text(argument)]:
            raise InputError("an argument is not UTF-8", value=odd[0], expected="names and values in UTF-8")
        parser = build_parser(commands)
        known, rest = parser.parse_known_args(arguments)
        given = vars(known)
        if (command := given.pop("command", None)) is None:
            parser.print_help()
            return 2
        if rest and not command.takes_beam_flags:
            raise UnknownArgumentError(rest[0].partition("=")[0], command.flags(), command.help())
        if not debug:
            logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        events.stage(command.name)
        events.event("started", f"{PROGRAM} {command.name}", details={"version": _version().split()[-1]})
        options = command.make(given)
        if not lasts:
            places.check_lasting(options)
        try:
            code = command.execute(options, rest) or 0
        except UnknownArgumentError as error:  # the runner's, which does not know our flags
            flags = [*command.flags(), *error.flags]
            raise UnknownArgumentError(error.argument, flags, command.help()) from error
        events.event("finished", f"{PROGRAM} {command.name}", {"seconds": round(time.monotonic() - started, 3)})
        return code
    except KeyboardInterrupt:
        if interrupts.received():
            return interrupts.report(_say_end)
        return _say_end(f"interrupted; {interrupts.GOES_ON}", INTERRUPTED)
    except Exception as error:
        if interrupts.received():  # which a library may have turned into something else
            return interrupts.report(_say_end)
        return _explained(error, debug)


def _is_text(argument: str) -> bool:
    """Whether an argument is UTF-8; of other bytes Python makes what can be encoded by nobody."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _say_end(line: str, code: int) -> int:
    return _fail(line, code, kind="")


def _explained(error: Exception, debug: bool) -> int:
    """Reports an error in one line; returns the exit code. What is a mistake of ours is raised again."""
    try:
        raise error
    except RagbeamError as error:
        if debug and not events.is_json():
            raise
        return _fail(str(error), error.exit_code, trace=debug)
    except OSError as error:
        if debug and not events.is_json():
            raise
        return _fail(f"{error.strerror or error}: {error.filename or 'no file named'}", 1, trace=debug)
    except Exception as error:
        if (debug and not events.is_json()) or type(error).__module__.split(".")[0] not in STORE_CLIENTS:
            raise
        return _fail(" ".join(f"the object store cannot be used: {error}".split()), 1, trace=debug)


def _fail(line: str, code: int, kind: str = "error: ", trace: bool = False) -> int:
    """Reports on stderr what went wrong, in the log format, and returns the exit code.

    `trace` adds the traceback of the exception in progress.
    """
    if events.is_json():
        events.event("error", line, level=logging.ERROR, details={"exit_code": code}, trace=trace)
    else:
        sys.stderr.write(public_text(f"{PROGRAM}: {kind}{line}\n"))
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


def build_parser(commands: Sequence[Command]) -> Parser:
    """A parser whose result holds the flags that were given, and the command itself as `command`."""
    parser = Parser(
        prog=PROGRAM, description="Apache Beam jobs that index Wikipedia and answer questions.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for command in commands:
        sub = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=EPILOG if command.takes_beam_flags else None,
        )
        command.add_flags(sub)
        sub.add_argument(
            "--debug", action="store_true", help="show the traceback of an error, and the runner's own log"
        )
        sub.add_argument(
            events.FLAG, metavar="FORMAT", help="format of the lines on stderr: text, or json (an object each)"
        )
        sub.set_defaults(command=command)
    return parser


def _version() -> str:
    from importlib import metadata

    try:
        return f"{PROGRAM} {metadata.version(PROGRAM)}"
    except metadata.PackageNotFoundError:
        return f"{PROGRAM} (not installed)"
