"""`nanochat` from its first moment on: a Ctrl-C while modules are still imported is a clean stop as well."""

import gc
import os
import signal
from types import FrameType


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"stopped\n")
    os._exit(130)


if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 50)  # what is imported stays, and looking for garbage in it took a tenth of a start
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell's & made us deaf
        signal.signal(signal.SIGINT, _leave)
    from flows.cli import main

    main()
