"""Log lines: sentences for people, or one JSON object a line."""

import json
import logging
import sys
from datetime import UTC, datetime

_QUIET = ("kopf", "aiohttp", "asyncio", "kubernetes")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(log_format: str, level: str) -> None:
    """Send all log lines to stderr; libraries speak from WARNING on unless everything is wanted."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    handler.setFormatter(_Json() if log_format == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    libraries = level if level in ("DEBUG", "ERROR") else "WARNING"
    for name in _QUIET:
        logging.getLogger(name).setLevel(libraries)
