"""CUDA graphs of a decoding step: one per shape of step, captured when first needed.

A step is some twenty small kernels per layer, and launching them one by one takes longer than running them; a graph
is one launch. What it reads and writes has fixed addresses, so a step is captured for whole buckets: few graphs serve
every number of rows and every length. Where capture fails the steps run without, and the reason is logged once.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from nanochat_core.inference.draw import Cut

logger = logging.getLogger(__name__)
_capturing = threading.Lock()
WARM_UP_RUNS = 2  # before capture: libraries set up their workspaces in the first calls

Shape = tuple[int, int, Cut | None]
"""Rows, visible places, and how tokens are drawn; None: the likeliest are taken."""
Body = Callable[[int, int, Cut | None], tuple[Tensor, Tensor]]
"""A shape to (logits, tokens), from and into buffers of fixed addresses."""


def bucket(needed: int, smallest: int, *, limit: int) -> int:
    """The smallest of smallest, 2 smallest, 4 smallest, ... that is at least `needed`, and `limit` at most."""
    size = smallest
    while size < needed:
        size *= 2
    return min(size, limit)


class StepGraphs:
    """Runs `body`, from its second call for the same shape on as one launch."""

    def __init__(self, body: Body, rehearsal: Callable[[], AbstractContextManager[None]]) -> None:
        """Within `rehearsal` the body may run any number of times and nothing has happened."""
        self._body, self._rehearsal = body, rehearsal
        self._captured: dict[Shape, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}
        self.failure: str | None = None
        """Why steps run without a graph; None: they do not."""

    def run(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Logits and tokens; both are overwritten by the next run."""
        if self.failure is None and shape not in self._captured:
            self._capture(shape)
        if self.failure is not None:
            return self._body(*shape)
        graph, outputs = self._captured[shape]
        graph.replay()
        return outputs

    def clear(self) -> None:
        """Forget all graphs: the tensors that they read have moved."""
        self._captured.clear()

    def _capture(self, shape: Shape) -> None:
        with self._rehearsal():
            try:
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(WARM_UP_RUNS):
                        self._body(*shape)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                # Several models of one server run in threads of their own: theirs may go on computing meanwhile, but
                # torch captures on one stream for all, so they capture one after the other.
                with _capturing, torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    outputs = self._body(*shape)
                self._captured[shape] = (graph, outputs)
            except (RuntimeError, AssertionError) as error:
                self.failure = str(error)
                self._captured.clear()
                logger.warning("decoding without CUDA graphs: %s", error)
