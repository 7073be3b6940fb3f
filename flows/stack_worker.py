"""A Prefect process worker that lets its runs save before it stops: `python -m flows.stack_worker --pool gpu`.

Prefect's worker kills its flow processes at once on SIGTERM, and their runs stay "Running" for ever (prefect#16746).
So this one stands before it: on SIGTERM the worker is held (it takes no new run), its runs are told to end as a cancel
tells them, which saves a checkpoint and calls them Crashed, and only then does the worker go. What it took and had not
begun goes back. In a container this is the first process, whose end would kill all others. A run with the tag
autoresume is scheduled again by the automation.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

from flows.stack_process import children_of
from flows.worker_release import saying_release
from nanochat_core.base import environment, gpus
from nanochat_core.base.process import die_with_parent

GRACE_S = 40.0  # a training gets 25 s to save (nanochat_core/base/child.py); reporting the end takes some more
WORKER_S = 10.0


def main() -> None:
    """Run a worker until it ends or is told to."""
    environment.adopt()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds for the runs to save")
    parser.add_argument("--limit", type=int, help="runs at once; of the gpu pool one for each GPU here by default")
    options, more = parser.parse_known_args()
    limit = options.limit or (max(1, len(gpus.visible())) if options.pool == "gpu" else None)
    more += ["--limit", str(limit)] if limit else []
    # handled here, and so back to the default in the worker: started by a shell's &, it would ignore SIGINT, which is
    # how it stops
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _stop)
    inner = [sys.executable, "-m", "flows.process_worker", "worker", "start"]
    command = [*inner, "--pool", options.pool, "--name", options.name]
    given = {**os.environ, **saying_release(os.environ)}
    worker = subprocess.Popen([*command, *more], env=given, preexec_fn=die_with_parent)
    look_after = (options.pool, options.name)
    threading.Thread(target=_look_after_runs, args=look_after, name="waits", daemon=True).start()
    try:
        code = worker.wait()
    except _ToldToStop:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        drain(worker, grace_s=options.grace)
        code = 0
    _give_back(options.pool, options.name)
    raise SystemExit(code)


def _look_after_runs(pool: str, worker: str) -> None:
    """For the runs that nobody works for: nobody else could say why, or that they are gone."""
    from flows import waits  # Prefect takes seconds to import, for which the worker need not wait

    waits.watch(pool, worker)


def _give_back(pool: str, worker: str) -> None:
    """What it took and did not begin; where the server does not answer, another worker's thread does it later."""
    from flows import waits

    waits.leave(pool, worker)


class _ToldToStop(BaseException):
    pass


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _ToldToStop


def drain(worker: "subprocess.Popen[bytes]", *, grace_s: float) -> None:
    """Hold the worker, let its runs save and say that they ended, then stop it."""
    os.kill(worker.pid, signal.SIGSTOP)
    for engine in children_of(worker.pid):
        _tell(engine)
    deadline = time.monotonic() + grace_s
    while children_of(worker.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    worker.send_signal(signal.SIGTERM)  # waits until the worker goes on, and then is the first thing it sees
    worker.send_signal(signal.SIGCONT)
    try:
        worker.wait(WORKER_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def _tell(engine: int) -> None:
    """As a cancel does: the whole group of a flow process, which leads one."""
    try:
        if os.getpgid(engine) == engine:
            os.killpg(engine, signal.SIGTERM)
        else:
            os.kill(engine, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has just ended by itself


if __name__ == "__main__":
    main()
