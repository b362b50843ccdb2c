"""The log on standard output: JSON, one object a line, or text for people at a terminal.

Lines never hold image bytes or whole prompts.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import orjson

LogFormat = Literal["auto", "json", "text"]

_RECORD_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}

# At a terminal the start prints these facts in another form; see `service.server.run`.
_NOT_FOR_PEOPLE: Final = frozenset(
    {
        "model",
        "ready",
        "listening",
        "Started server process [%d]",
        "Waiting for application startup.",
        "Application startup complete.",
        "Waiting for application shutdown.",
        "Application shutdown complete.",
        "Finished server process [%d]",
    }
)


class JsonFormatter(logging.Formatter):
    """Formats a record and its `extra` as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        line.update(_extra(record))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate or a huge integer: rare, and no reason to lose the line
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Formats a record as local time, level unless it is info, message, and `extra` as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        fields = "".join(f" {name}={_as_text(value)}" for name, value in _extra(record).items())
        line = f"{time} {level}{record.getMessage()}{fields}"
        return _without_control(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


def is_text(log_format: LogFormat, stream: TextIO) -> bool:
    """Return whether a format is text on this stream: `auto` is text on a terminal and JSON elsewhere."""
    return stream.isatty() if log_format == "auto" else log_format == "text"


def configure_logging(level: str, log_format: LogFormat = "json") -> None:
    """Send all records of this process to standard output, also those of uvicorn.

    Args:
        level: Least severe level shown, such as `info`.
        log_format: Format of a line.
    """
    # No line has these fields, and every request writes a line (see "Optimization" in Python's Logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001
    handler = logging.StreamHandler(sys.stdout)
    if is_text(log_format, sys.stdout):
        handler.setFormatter(TextFormatter())
        handler.addFilter(lambda record: not isinstance(record.msg, str) or record.msg not in _NOT_FOR_PEOPLE)
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # the service writes its own line for each request


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _RECORD_FIELDS}


def _without_control(text: str) -> str:
    """Escape all control characters but line ends and tabs: they could move the cursor of a terminal."""
    return "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{key}={_as_text(item)}" for key, item in value.items()) + "}"
    text = str(value)
    return text if text.isprintable() else repr(text)  # a control character could move the cursor of a terminal
