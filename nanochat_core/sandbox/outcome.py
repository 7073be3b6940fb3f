"""What a program may use, and what became of it: the two values that cross the sandbox's border."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "timeout", "memory", "crashed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use. Past a limit it is stopped, with everything that it started."""

    wall_s: float = 5.0
    cpu_s: int = 5  # of each process
    memory_mib: int = 256  # address space of each process; the interpreter itself takes about 30 of them
    num_processes: int = 16  # threads count as processes, the program itself as one
    file_mib: int = 16  # the private folder as a whole where it can be a mount of its own, else each file
    num_files: int = 64  # open at once
    output_kib: int = 64  # of stdout and stderr each; the rest is thrown away


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `passed`: it ran to its last statement, raised nothing and did not end itself."""

    status: Status
    stdout: str
    stderr: str
    error: str | None  # why it did not pass, in one line
    wall_s: float

    @property
    def has_passed(self) -> bool:
        """Whether the program ran to its end."""
        return self.status == "passed"
