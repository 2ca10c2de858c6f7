"""The log of the services on stderr: text for people, or with THALWEG_LOG=json a JSON object a line.

Every object has `time` (UTC), `level`, `room`, `worker`, `logger` and `event`; `exception`, a traceback, where there
is one; then fields of the event's own. Values are strings, finite numbers, booleans or null. Secrets are masked.
"""

import json
import logging
import math
import sys
import threading
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from stream.runtime.settings import Settings

TEXT: Final = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
MASK: Final = "***"
Fields = MutableMapping[str, Any]
Mask = Callable[[str], str]

_json_is_on = False


def log_to_stderr(settings: "Settings", room: str) -> None:
    """Log to stderr at the level and in the form of the settings. Errors of writing to stderr are ignored.

    `room`: joiner, learner or ranker, also of processes that a room starts. With JSON, warnings and the tracebacks of
    what ends the process or a thread are objects, too.
    """
    import structlog

    global _json_is_on  # logging is configured per process
    _json_is_on = settings.log == "json"
    mask = partial(masked, secrets=secrets_of(settings))
    handler = logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("numba").setLevel(logging.WARNING)  # below it each kernel that is compiled is thousands of lines
    last: Any = structlog.dev.ConsoleRenderer(0, colors=False)
    handler.setFormatter(_MaskedText(mask))
    if _json_is_on:
        last = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
        handler.setFormatter(_json_formatter(room, settings.worker, mask))
        _log_the_unforeseen(logging.getLogger(room))
    structlog.configure(
        [structlog.stdlib.filter_by_level, last],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def is_json() -> bool:
    """Whether this process logs JSON: then it prints nothing else, to stdout neither."""
    return _json_is_on


def secrets_of(settings: "Settings") -> list[str]:
    """The passwords in the settings, as they are and as URLs write them."""
    in_url = urlsplit(settings.redis).password or ""
    known = (value.get_secret_value() for _, value in settings if hasattr(value, "get_secret_value"))
    return sorted({*known, in_url, unquote(in_url)} - {""}, key=len, reverse=True)


def masked(text: str, secrets: list[str]) -> str:
    """The text with a mask where it has one of the secrets.

    >>> masked("redis://:hunter2@db:6379", ["hunter2"])
    'redis://:***@db:6379'
    """
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


class _MaskedText(logging.Formatter):
    def __init__(self, mask: Mask) -> None:
        super().__init__(TEXT)
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        return self._mask(super().format(record))


def _json_formatter(room: str, worker: str, mask: Mask) -> logging.Formatter:
    from structlog.processors import JSONRenderer, format_exc_info
    from structlog.stdlib import ProcessorFormatter

    def ordered(_logger: Any, _method: str, fields: Fields) -> Fields:
        record: logging.LogRecord = fields.pop("_record")
        del fields["_from_structlog"]
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        ours = {"time": time, "level": record.levelname.lower(), "room": room, "worker": worker, "logger": record.name}
        own = {name: _plain(value, mask) for name, value in fields.items()}
        return ours | {"event": own.pop("event")} | own | ours

    return ProcessorFormatter(processors=[format_exc_info, ordered, JSONRenderer(json.dumps)])


def _plain(value: Any, mask: Mask) -> str | int | float | bool | None:
    """What JSON can express; of anything else its text, masked."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    return mask(str(value))


def _log_the_unforeseen(log: logging.Logger) -> None:
    """Warnings, and exceptions that nobody handles, which Python writes to stderr as text."""
    logging.captureWarnings(True)

    def ended(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, Exception):
            log.critical("an error that nobody handles ends the process", exc_info=(kind, error, trace))
        else:
            sys.__excepthook__(kind, error, trace)

    def thread_ended(of: threading.ExceptHookArgs) -> None:
        if of.exc_value is not None:
            name = of.thread.name if of.thread else "unknown"
            log.critical("thread %s has ended", name, exc_info=(of.exc_type, of.exc_value, of.exc_traceback))

    sys.excepthook, threading.excepthook = ended, thread_ended
