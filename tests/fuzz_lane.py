"""What the cases of a fuzz lane cost: none may take ten seconds of the processor, nor half a GiB more than there was.

lane = Lane()
while lane.goes_on(seconds):
    with lane.case("what it is"):
        ...
print(lane)
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_CPU_S, LIMIT_MIB = 10, 512
LONG_S = int(os.environ.get("NANOCHAT_FUZZ_S", "900"))  # four lanes of `make faults`: an hour together


class Lane:
    """The cases so far: how many, the dearest of them, and by how much this process grew at most."""

    def __init__(self) -> None:
        self.num, self.longest_s, self.longest = 0, 0.0, ""
        self.begun_s, self.begun_cpu_s = time.monotonic(), time.process_time()
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: other tests have theirs
        self._held_mib = peak_mib()

    @property
    def grown_mib(self) -> int:
        """By how much more than at first this process held at most."""
        return peak_mib() - self._held_mib

    def goes_on(self, seconds: float) -> bool:
        """Whether the lane is younger than that."""
        return time.monotonic() - self.begun_s < seconds

    @contextmanager
    def case(self, what: str) -> Iterator[None]:
        """One case, held to the limits."""
        begun_s = time.process_time()
        yield
        self.num += 1
        taken_s = time.process_time() - begun_s
        if taken_s > self.longest_s:
            self.longest_s, self.longest = taken_s, what
        assert taken_s < LIMIT_CPU_S, f"{what} took {taken_s:.1f} s of the processor"
        assert self.grown_mib < LIMIT_MIB, f"{what} took {self.grown_mib} MiB"

    def __str__(self) -> str:
        return (
            f"{self.num:,} cases in {time.monotonic() - self.begun_s:.0f} s, "
            f"{time.process_time() - self.begun_cpu_s:.0f} s of them of the processor, and no traceback; "
            f"the longest {self.longest_s:.2f} s ({self.longest[:80]}); {self.grown_mib} MiB more than before at most"
        )


def peak_mib() -> int:
    """The most memory that this process held. Not ru_maxrss: a process is born with its parent's."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10  # type: ignore[index]
