"""How long the embedded server is waited for: a machine that is busy with other things is no server that hangs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import server
from flows.server import START_CPU_S, START_TIMEOUT_S, EmbeddedServer
from nanochat_core.base.errors import NanochatError


@pytest.mark.parametrize(
    ("cpu_per_s", "waited_s"),
    [(0.0, START_TIMEOUT_S), (0.05, START_CPU_S / 0.05 + START_TIMEOUT_S), (1.0, START_CPU_S + START_TIMEOUT_S)],
)
def test_the_clock_stands_still_while_a_server_gets_little(
    monkeypatch: pytest.MonkeyPatch, cpu_per_s: float, waited_s: float
) -> None:
    now: list[float] = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: now.append(now.pop() + 1))
    monkeypatch.setattr(server, "time", clock)
    monkeypatch.setattr(server, "cpu_s", lambda pid: now[0] * cpu_per_s)
    starting: Any = EmbeddedServer.__new__(EmbeddedServer)
    starting.process, starting.log = SimpleNamespace(pid=1, poll=lambda: None), Path("log")
    starting._answers, starting.limit = (lambda: False), (lambda: None)
    with pytest.raises(NanochatError, match="did not answer in time"):
        starting.wait_until_ready()
    assert abs(now[0] - waited_s) <= 2 / max(cpu_per_s, 1)
