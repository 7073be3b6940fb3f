"""Whose job is next: clients take turns, then the requests of a client, and who asks for little waits for little.

Fair queueing by finishing time (Demers, Keshav and Shenker, SIGCOMM 1989), on three levels: address, key, request. Of
those that wait on one level the one comes first whose next job would be done first, had all of them been served evenly
until now. So a client's hundredth job waits behind another's first, and a batch of 64 prompts of a thousand tokens does
not delay a question of ten. Nobody is passed over for ever: whoever waits stays where they are while others advance.
"""

import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence

from nanochat_core.serve.jobs import Job


class Turns:
    """Jobs that wait; a node of the levels above them, whose leaves are the jobs of one request in their order."""

    def __init__(self) -> None:
        self._below: dict[Hashable, Turns] = {}
        self._jobs: deque[Job] = deque()
        self._spent = 0.0  # tokens that were granted to this node
        self._clock = 0.0  # what newcomers below are taken to have had

    def __len__(self) -> int:
        return len(self._jobs) + sum(map(len, self._below.values()))

    def __iter__(self) -> Iterator[Job]:
        yield from self._jobs
        for node in self._below.values():
            yield from node

    def add(self, jobs: Sequence[Job]) -> None:
        """Put jobs behind what their request has waiting already."""
        for job in jobs:
            node = self
            for level in job.turn:
                node = node._child(level)
            node._jobs.append(job)

    def take(self, may: Callable[[Job], bool]) -> Job | None:
        """The job whose turn it is among those that may go now, removed."""
        best = self._next(may)
        return None if best is None else self._remove(best[1])

    def drop_cancelled(self) -> int:
        """Forget what nobody waits for any more; how many those were."""
        before = len(self)
        self._jobs = deque(job for job in self._jobs if not job.is_cancelled)
        for node in self._below.values():
            node.drop_cancelled()
        self._prune()
        return before - len(self)

    def clear(self) -> None:
        self._below.clear()
        self._jobs.clear()

    def _child(self, level: Hashable) -> "Turns":
        if level not in self._below:
            self._below[level] = Turns()
            self._below[level]._spent = self._clock
        return self._below[level]

    def _next(self, may: Callable[[Job], bool]) -> tuple[float, Job] | None:
        """(Tokens that this node will have had when its next job is done, that job)."""
        if self._jobs:
            first = self._jobs[0]
            return (self._spent + first.cost, first) if may(first) else None
        found = [best for node in self._below.values() if (best := node._next(may)) is not None]
        if not found:
            return None
        job = min(found, key=lambda best: best[0])[1]
        return self._spent + job.cost, job

    def _remove(self, job: Job) -> Job:
        node, path = self, [self]
        for level in job.turn:
            node = node._below[level]
            path.append(node)
        node._jobs.remove(job)
        for above, below in itertools.pairwise(path):
            above._clock = max(above._clock, below._spent)
            below._spent += job.cost
        self._prune()
        return job

    def _prune(self) -> None:
        for level, node in list(self._below.items()):
            node._prune()
            if not len(node):
                del self._below[level]
