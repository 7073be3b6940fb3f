"""How many of torch's threads a piece of decoding is worth.

Threads meet at the end of every operation and wait for each other there with a processor each. Where an operation takes
microseconds that gains nothing on a quiet machine, and on a busy one, a server's event loop and a client beside it
already, each meeting may cost a time slice: a prompt of 64 tokens took a d4 10 ms alone and 208 ms on two threads.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

BYTES = 64 << 20  # of weights that a step reads
FLOPS = 2e9  # of a prompt's chunk: some 10 to 20 ms of one core


def threads_for(num_bytes: int) -> int:
    """Threads that share out the reading of so many bytes of weights."""
    return torch.get_num_threads() if num_bytes >= BYTES else 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch's operations of this Python thread take one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for_flops(num_flops: float) -> AbstractContextManager[None]:
    """Within, operations that all together compute so much take as many threads as pay."""
    return one_thread() if num_flops < FLOPS else nullcontext()
