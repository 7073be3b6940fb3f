"""Ours beside nanochat, stage by stage, on this machine: `python -m benchmarks.versus --peer FOLDER [PART ...]`.

    git clone https://github.com/karpathy/nanochat peer
    python -m benchmarks.versus --peer peer --quick
    python -m benchmarks.versus --peer peer one-stream core --repeats 5
    python -m benchmarks.versus --peer peer --equal-types --record

Both sides work on the same text, tokenizer, weights, batches and questions and take turns. Prints one table; each
side's compute type is its own default (bf16 and fp32 on a processor with bf16), with --equal-types there is a second
table in nanochat's. Needs a clone of this repository (`make dev`), a checkout of nanochat, and a package index to make
an environment for it, where --peer-python names none. On a GPU --depth 12 tells more.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.versus.harness import Failed, Row, line, table
from benchmarks.versus.machine import environment_of, section
from benchmarks.versus.parts import PARTS, Both, chosen

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/RESULTS.md"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.versus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: all")
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of nanochat")
    parser.add_argument("--peer-python", type=Path, help="the Python of its environment; else one is made")
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT.parent / "shared/data",
        help="a folder with pretrain/*.parquet, core_eval, chat_eval, sft; what is not there is made, CORE is left out",
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build/versus", help="environment and material, kept")
    parser.add_argument("--quick", action="store_true", help="ten minutes on two cores")
    parser.add_argument("--repeats", type=int, help="pairs of each part; default 3, quick 1")
    parser.add_argument(
        "--threads",
        type=int,
        help="of each process on both sides (OMP_NUM_THREADS); none: their own "
        "choice. One is steadier where other work is going on",
    )
    parser.add_argument("--depth", type=int, default=4, help="of the model")
    parser.add_argument("--equal-types", action="store_true", help="a second table, both in nanochat's compute type")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    try:
        told = run(options)
    except Failed as error:
        sys.exit(str(error))
    if options.record:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write("\n" + told)


def run(options: argparse.Namespace) -> str:
    """Everything that was asked for; the tables with what they are of, printed as they come."""
    parts = chosen(options.parts)
    python = options.peer_python or environment_of(options.peer, options.folder)
    both = Both(options.peer.resolve(), python.absolute(), options.folder, data=options.data, depth=options.depth,
                is_quick=options.quick, threads=options.threads)  # fmt: skip
    repeats = options.repeats or (1 if options.quick else 3)
    told = [section(options.peer, both.types, depth=options.depth, repeats=repeats, threads=options.threads)]
    print(told[0])
    told.append(table([measured(both, part, "auto", repeats) for part in parts]))
    print(told[1])
    ours, theirs = both.types["ours"]["type"], both.types["nanochat"]["type"]
    if options.equal_types and ours == theirs:
        print(f"both are in {ours} as it is: there is no second table")
    elif options.equal_types:
        told.append(f"Both in {theirs}:\n")
        told.append(table([measured(both, part, theirs, repeats) for part in parts if PARTS[part].has_types]))
        print(*told[2:], sep="\n")
    return "\n".join(told)


def measured(both: Both, part: str, dtype: str, repeats: int) -> Row:
    """One row, told as soon as it is there: the whole table takes a while."""
    row = both.measure(part, dtype=dtype, repeats=repeats)
    print(line(row), file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
