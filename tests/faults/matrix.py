"""The kill matrix: every part of a running training, hit in every way, on a real server with a real worker.

    .venv/bin/python tests/faults/matrix.py [--repeats 5] [--lanes 2] [--cells rank:KILL,server:STOP] [--out table.md]

A cell is a victim and a blow. KILL and TERM are signals; STOP freezes the victim for longer than the server waits for a
sign of life, then lets it go on; "cancel" asks for a cancel through the API one second after the victim was killed
(with the victim "nobody": just a cancel, like the UI's button). Of each: seconds until the ranks are dead or train
again, seconds until the run's state is the truth, and whether the weights are those of an unbroken run once the run was
retried where that was needed. Seconds count from the blow; after STOP and a server's outage, from the end of it.
A worker that died is started again only after the state was judged, and a dead server after OUTAGE_S, as whatever
keeps services alive would do. Exits with 1 when a promise was broken.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kill_lane import ALL_CELLS, NUM_STEPS, Cell, Lane, Outcome, write_corpus  # noqa: E402
from prefect_team import LEASES  # noqa: E402


def run_matrix(lanes: list[Lane], cells: Iterable[Cell], *, seed: int) -> list[Outcome]:
    """Every cell once, spread over the lanes; lines on stderr as they come."""
    waiting, outcomes, guard = list(cells), [], threading.Lock()
    draw = random.Random(seed)
    draw.shuffle(waiting)
    moments = [draw.randint(4, lanes[0].num_steps // 3) for _ in waiting]
    expected = lanes[0].unbroken()

    def work(lane: Lane) -> None:
        while True:
            with guard:
                if not waiting:
                    return
                cell = waiting.pop()
                at_step = moments[len(waiting)]
            outcome = _play_safely(lane, cell, expected, at_step)
            with guard:
                outcomes.append(outcome)
            print(f"{len(outcomes):3d} {outcome}", file=sys.stderr, flush=True)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def _play_safely(lane: Lane, cell: Cell, expected: dict[str, str], at_step: int) -> Outcome:
    """A cell that cannot be played to its end is a broken promise, and no reason not to play the others."""
    try:
        return lane.play(cell, expected, at_step=at_step)
    except (AssertionError, OSError, ValueError) as error:
        for pid in [*lane.team.engines(), *lane.team.ranks()]:  # or it would disturb the next one
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return Outcome(cell, broken=[f"not played to its end: {str(error)[:1500]}"])


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a line per cell, the worst of its times."""
    lines = [
        "| victim | blow | times | ranks dead, s | trains again, s | state true, s | retried | states | slower "
        "| other digests | broken promises |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in ALL_CELLS:
        mine = [outcome for outcome in outcomes if outcome.cell == cell]
        if not mine:
            continue
        paths = sorted({" → ".join(o.states) for o in mine}, key=len)
        lines.append(
            f"| {cell.victim} | {cell.blow} | {len(mine)} | {_worst(o.ranks_dead_s for o in mine)} "
            f"| {_worst(o.trains_s for o in mine)} | {_worst(o.state_true_s for o in mine)} "
            f"| {sum(o.was_retried for o in mine)} | {' or '.join(paths)} | {_worst(o.slowdown for o in mine)} "
            f"| {sum(not o.digests_equal for o in mine)} | {'; '.join(b for o in mine for b in o.broken) or 'none'} |"
        )
    num_broken = sum(bool(outcome.broken) for outcome in outcomes)
    return "\n".join([*lines, "", f"{len(outcomes)} blows, {num_broken} with a broken promise."])


def _worst(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.1f}" if known else "–"


@contextlib.contextmanager
def lanes_in(folder: Path, corpus: Path, number: int, *, num_steps: int) -> Iterator[list[Lane]]:
    """So many servers, each with a worker."""
    os.environ |= {"NANOCHAT_HOME": str(folder), "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES}
    with contextlib.ExitStack() as stack:
        lanes = []
        for index in range(number):
            lanes.append(Lane(folder / f"lane-{index}", corpus, num_steps=num_steps))
            stack.callback(lanes[-1].close)
        for lane in lanes:
            lane.prepare()
        yield lanes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--cells", default="", help="victim:blow,victim:blow (default: all)")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of each training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and its workers would too
    chosen = [Cell(*name.split(":")) for name in options.cells.split(",") if name] or ALL_CELLS
    unknown = set(chosen) - set(ALL_CELLS)
    if unknown:
        parser.error(f"no such cell: {unknown}")
    with tempfile.TemporaryDirectory(prefix="matrix-") as name:
        corpus = write_corpus(Path(name) / "corpus")
        with lanes_in(Path(name), corpus, options.lanes, num_steps=options.steps) as lanes:
            outcomes = run_matrix(lanes, chosen * options.repeats, seed=options.seed)
    text = table(outcomes)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    sys.exit(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    main()
