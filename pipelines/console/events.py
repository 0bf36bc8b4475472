"""Reports of a run on stderr: plain lines, or with --log_format json one JSON object a line.

An event has `time` (UTC, ISO 8601), `level`, `stage`, `event`, `message` and, if there is something to count,
`counts`. The events: started, stage_started, progress, shard_made, shard_reused, stage_reused, stage_finished,
finished, error, and log for every other line of a logger.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from rag_ops.errors import InputError
from rag_ops.redaction import public, public_text

FORMATS = ("text", "json")
FLAG = "--log_format"
_events = logging.getLogger("ragbeam.events")  # silent as text: the terminal has lines of its own for them
_state: dict[str, Any] = {"json": False, "stage": None}


class JsonLines(logging.Formatter):
    """A log record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """See the module."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "stage": getattr(record, "stage", None) or _state["stage"],
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
        }
        if counts := getattr(record, "counts", None):
            line["counts"] = dict(counts)
        line |= getattr(record, "details", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(public(line), ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """A log record as a line of text, without secrets in URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        return public_text(super().format(record))


def report_uncaught() -> None:
    """Has exceptions that nobody catches, in threads too, reported without secrets in URLs."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(public_text("".join(traceback.format_exception(kind, error, trace))))

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = report
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda end: report(end.exc_type, end.exc_value or end.exc_type(), end.exc_traceback)


def format_of(arguments: list[str]) -> str:
    """The log format that a command line asks for; looked for before the line is parsed, whose errors it decides.

    Raises:
        InputError: there is no such format.
    """
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(FLAG + "=")]
    values += [value for flag, value in itertools.pairwise(arguments) if flag == FLAG]
    chosen = values[-1] if values else "text"
    if chosen not in FORMATS:
        raise InputError(f"unknown {FLAG}", value=chosen, expected=" or ".join(FORMATS))
    return chosen


@contextlib.contextmanager
def as_json() -> Iterator[None]:
    """Everything that is logged in the block goes to stderr as JSON lines; warnings of libraries too."""
    root, shards = logging.getLogger(), logging.getLogger("rag_ops.storage.stages")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    before = root.handlers, root.level, _events.level, shards.level
    root.handlers = [handler]
    _events.setLevel(logging.INFO)
    shards.setLevel(logging.DEBUG)  # a line a shard
    logging.captureWarnings(True)
    _state.update(json=True, stage=None)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers = before[0]
        for logger, level in zip((root, _events, shards), before[1:], strict=True):
            logger.setLevel(level)
        _state.update(json=False, stage=None)


def is_json() -> bool:
    """Whether events are written, and bars and plain lines are not."""
    return _state["json"]


def stage(name: str) -> None:
    """Sets the stage of the events that follow."""
    _state["stage"] = name


def event(
    name: str,
    message: str,
    counts: Mapping[str, Any] | None = None,
    *,
    level: int = logging.INFO,
    details: Mapping[str, Any] | None = None,
    trace: bool = False,
) -> None:
    """Emits a JSON event of the module's list, with `details` as members of the object; does nothing in text mode.

    `trace` adds the traceback of the exception in progress.
    """
    if is_json():
        extra = {"event": name, "counts": dict(counts or {}), "details": dict(details or {})}
        _events.log(level, message, extra=extra, exc_info=trace)
