"""The embedded Prefect server's own process: `python -m flows.embedded PORT`.

A batch system tells every process of a job to end at once. This one then still takes down how the run ended: it is
deaf to SIGTERM and goes when its driver says so (SIGINT), or is gone.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

import uvicorn

from nanochat_core.base import redaction
from nanochat_core.base.process import die_with_parent

GRACE_S = 2


class Server(uvicorn.Server):
    """uvicorn's, which SIGTERM does not end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called at SIGINT and SIGTERM."""
        if sig != signal.SIGTERM:
            super().handle_exit(sig, frame)


def main() -> None:
    """Serve Prefect's API on 127.0.0.1 until SIGINT or the parent's end."""
    redaction.install()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(signal.SIGINT)
    config = uvicorn.Config(
        "flows.guard:create_app", factory=True, host="127.0.0.1", port=int(sys.argv[1]),
        log_level="error", lifespan="on", timeout_graceful_shutdown=GRACE_S,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once all is closed
        Server(config).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the database is closed; taking down what Prefect has imported takes half of the end


if __name__ == "__main__":
    main()
