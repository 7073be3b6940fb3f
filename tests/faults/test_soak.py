"""The soak's short forms: six runs and three kills; ten runs, and each thing killed once. The long one: `make soak`."""

import signal
import sys
from pathlib import Path

import pytest
from prefect_team import LEASES
from processes import processes_of

sys.path.append(str(Path(__file__).parent))
from soak import BLOWS, soak_in

pytestmark = pytest.mark.slow
MOMENTS = list(zip((2.0, 5.0, 8.0, 11.0, 14.0), BLOWS, strict=True))
SHORT = [(2.0, "server KILL"), (6.0, "worker KILL"), (9.0, "flow process KILL")]


@pytest.mark.parametrize(
    ("num_runs", "moments"), [(6, SHORT), pytest.param(10, MOMENTS, marks=pytest.mark.torture)], ids=["short", "all"]
)
def test_runs_among_kills_all_end_once_and_leave_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    small_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_runs: int,
    moments: list[tuple[float, str]],
) -> None:
    folder = tmp_path_factory.mktemp("soak")
    monkeypatch.setenv("NANOCHAT_HOME", str(folder.parent))  # which has the empty database of the tests before
    monkeypatch.setenv("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", LEASES)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker that ignores it ignores SIGTERM too
    try:
        with soak_in(folder, small_corpus, silence_s=20, num_runs=num_runs, width=3, every_s=1.0, seed=3) as soak:
            result = soak.play(moments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not any(result.wrong.values()), result.table()
    assert result.blows.total() >= len(moments) - 1, "there may have been no flow process to kill"
    assert result.states.total() == num_runs
    assert processes_of(folder) == []
