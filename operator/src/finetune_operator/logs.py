"""Log lines: sentences for people, or one JSON object a line, whatever happens.

A line about a FineTuneJob says so by `extra={"about": key}`: its namespace, its name, and its uid where that is known.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

_QUIET = ("kopf", "aiohttp", "asyncio", "kubernetes")
_logger = logging.getLogger(__name__)


def _about(record: logging.LogRecord) -> dict[str, str]:
    """The object that a line is about; kopf has its own way to say so."""
    key = getattr(record, "about", None)
    if isinstance(key, tuple):
        return dict(zip(("namespace", "name", "uid"), map(str, key), strict=False))
    reference: dict[str, Any] = getattr(record, "k8s_ref", None) or {}
    return {part: str(reference[part]) for part in ("kind", "namespace", "name", "uid") if reference.get(part)}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if about := _about(record):
            entry["object"] = about
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        about = _about(record)
        start = f"{about.get('namespace')}/{about.get('name')}: " if about else ""
        return f"{self.formatTime(record, self.datefmt)} {record.levelname:7} {start}{record.message}"


def set_up(log_format: str, level: str) -> None:
    """Send all lines to stderr, Python's own complaints too; libraries speak from WARNING on unless all is wanted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text(datefmt="%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    libraries = level if level in ("DEBUG", "ERROR") else "WARNING"
    for name in _QUIET:
        logging.getLogger(name).setLevel(libraries)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _told("a thread ended")
    sys.unraisablehook = _told("an error came where nothing could catch it")


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    _logger.critical("the process ends: %s", error or kind.__name__, exc_info=(kind, error, trace))


def _told(what: str) -> Callable[[Any], None]:
    """A hook for errors that Python would print by itself."""

    def hook(arguments: Any) -> None:
        error = arguments.exc_value
        _logger.error("%s: %s", what, error, exc_info=(arguments.exc_type, error, arguments.exc_traceback))

    return hook
