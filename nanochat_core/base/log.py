"""Logging of the core: `logging.getLogger("nanochat_core...")`, set up only by whoever runs it (the command line, a
task).
"""

import logging
import sys


def setup(level: int = logging.INFO) -> None:
    """Send the core's log lines to stderr, bare; for the command line and training processes."""
    logger = logging.getLogger("nanochat_core")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.propagate = False
