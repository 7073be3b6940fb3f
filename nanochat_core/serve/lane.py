"""The slow lane: large prompts, bodies and answers are read and written one after the other, with pauses.

Such work holds the interpreter, which every operation of the engine needs, and the processor, which it needs too. So
while somebody waits for a single answer it gets a ninth of the time; what is small goes past it. One piece of
each address is in line, so that who sends a hundred delays others by one. What waits is memory, and bounded.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from nanochat_core.serve.errors import ApiError

T = TypeVar("T")
SMALL_BYTES = 16 << 10  # some milliseconds at most
NUM_SMALL = 4  # at once: more would only take the interpreter from each other
REST_S = 8.0  # for others after each second of work
RETRY_S = 1.0


class Lane:
    """Work beside the event loop, on what clients have sent or are to get."""

    def __init__(self, *, max_bytes: int, is_missed: Callable[[], bool]) -> None:
        """`is_missed`: whether anybody misses the time."""
        self._max_bytes, self._is_missed = max_bytes, is_missed
        self._held: Counter[str] = Counter()
        self._small, self._free = asyncio.Semaphore(NUM_SMALL), asyncio.Lock()
        self._of_client: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def read(self, work: Callable[[], T], *, num_bytes: int, client: str) -> T:
        """`do` with what this address has sent. ApiError 503 where too much waits already."""
        if self._held.total() + num_bytes > self._max_bytes or self._held[client] + num_bytes > self._max_bytes // 2:
            raise ApiError(503, "too many large requests are being read", code="too_many_bytes", retry_after_s=RETRY_S)
        self._held[client] += num_bytes
        try:
            return await self.do(work, num_bytes=num_bytes, client=client)
        finally:
            self._held[client] -= num_bytes
            self._held += Counter()  # forgets who holds nothing

    async def do(self, work: Callable[[], T], *, num_bytes: int, client: str) -> T:
        """What `work` on so many bytes for this address returns."""
        if num_bytes <= SMALL_BYTES:
            async with self._small:
                return await asyncio.to_thread(work)
        async with self._of_client.setdefault(client, asyncio.Lock()):
            await self._free.acquire()
            started = time.monotonic()
            try:
                return await asyncio.to_thread(work)
            finally:
                rest_s = REST_S * (time.monotonic() - started) if self._is_missed() else 0.0
                asyncio.get_running_loop().call_later(rest_s, self._free.release)
