"""The log of the services."""

import logging
import sys


def log_to_stderr(level: str) -> None:
    """Log to stderr, at this level (`Settings.log_level`). Errors of writing to stderr are ignored."""
    import structlog

    line = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=line)
    structlog.configure(
        [structlog.stdlib.filter_by_level, structlog.dev.ConsoleRenderer(0, colors=False)],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
