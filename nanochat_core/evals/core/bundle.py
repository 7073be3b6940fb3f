"""The published data of CORE, read: core.yaml, eval_meta_data.csv and eval_data/*.jsonl in a folder.

core.yaml names the benchmarks and how they are asked, the table gives each one's random baseline and category, and
every line of a data file is one item (the layout of MosaicML's evaluation gauntlet, which DCLM and nanochat use).
A benchmark whose data file is absent is listed as missing and the others are measured, for some copies of the bundle
lack files that may not be passed on. How a bundle gets here is bundle_source.py's: what is measured on it does not
depend on the downloader.
"""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast, get_args

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.base.foreign import MAX_SETTINGS_BYTES, NO_VALUES
from nanochat_core.base.text import parse_json, read_text

TASKS, TABLE, DATA = "core.yaml", "eval_meta_data.csv", "eval_data"
COLUMNS = ("Eval Task", "Task Category", "Random baseline")
DEFAULT_DELIMITER = " "
Kind = Literal["multiple_choice", "schema", "language_modeling"]
FIELDS: dict[Kind, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}
OPTIONS: dict[Kind, str] = {"multiple_choice": "choices", "schema": "context_options"}
Item = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How one benchmark is asked."""

    label: str
    kind: Kind
    data: str
    """The data file, relative to eval_data/."""
    num_fewshot: int
    delimiter: str
    """Between a context and its continuation."""
    baseline_percent: float
    """Accuracy of guessing."""
    category: str


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and what its tables say."""

    root: Path
    benchmarks: tuple[Benchmark, ...]
    """Those whose data file is there, in the bundle's order."""
    missing: tuple[str, ...]
    """Labels of those whose data file is absent."""
    archive_sha256: str | None = None
    """Of the zip it came in."""

    @property
    def files(self) -> list[str]:
        """The two tables and the data files, in a fixed order."""
        return [TASKS, TABLE, *sorted({f"{DATA}/{benchmark.data}" for benchmark in self.benchmarks})]

    @cached_property
    def digest(self) -> str:
        """sha256 over names and contents of the two tables and the data files, in that order."""
        total = hashlib.sha256()
        for name in self.files:
            total.update(f"{name}\0{file_sha256(self.root / name)}\n".encode())
        return total.hexdigest()

    def items(self, benchmark: Benchmark) -> list[Item]:
        """All items of a benchmark in the file's order, each checked for what its kind needs."""
        path = self.root / DATA / benchmark.data
        if items := list(_items(path, benchmark.kind)):
            return items
        raise CorruptError(f"{path} holds no item", hint="fetch the bundle again")


def read_bundle(root: Path, *, archive_sha256: str | None = None) -> Bundle:
    """The bundle in a folder, or in the one folder inside it (zips often have eval_bundle/ on top)."""
    root = _root(root)
    table = _table(root / TABLE)
    benchmarks, missing = [], []
    for number, task in enumerate(_tasks(root / TASKS), start=1):
        benchmark = _benchmark(task, table, where=f"{root / TASKS}, task {number}")
        if (root / DATA / benchmark.data).is_file():
            benchmarks.append(benchmark)
        else:
            missing.append(benchmark.label)
    if not benchmarks:
        raise MissingError(f"{root / DATA} holds none of the {len(missing)} benchmarks' data files")
    return Bundle(root, tuple(benchmarks), tuple(missing), archive_sha256)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _root(folder: Path) -> Path:
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    root = next((path for path in candidates if (path / TASKS).is_file()), None)
    if root is None:
        raise MissingError(f"there is no {TASKS} in {folder}", hint=f"a bundle has {TASKS}, {TABLE} and {DATA}/")
    if not (root / TABLE).is_file():
        raise MissingError(f"there is no {root / TABLE}", hint="it holds the random baselines")
    return root


def _tasks(path: Path) -> list[dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(read_text(path, error=CorruptError, most=MAX_SETTINGS_BYTES))
    except (yaml.YAMLError, *NO_VALUES) as error:
        raise CorruptError(f"{path} is no YAML: {error}", hint="fetch the bundle again") from error
    tasks = content.get("icl_tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise CorruptError(f"{path} has no list icl_tasks", hint="fetch the bundle again")
    return tasks


def _table(path: Path) -> dict[str, dict[str, str]]:
    reader = csv.DictReader(io.StringIO(read_text(path, error=CorruptError, most=MAX_SETTINGS_BYTES)))
    columns = reader.fieldnames or []
    absent = [column for column in COLUMNS if column not in columns]
    if absent:
        raise CorruptError(
            f"{path} has no column {', '.join(map(repr, absent))}", hint=f"its columns are {', '.join(columns)}"
        )
    try:
        return {row["Eval Task"]: row for row in reader}
    except csv.Error as error:
        raise CorruptError(f"{path} is no table: {error}", hint="fetch the bundle again") from error


def _benchmark(task: dict[str, Any], table: dict[str, dict[str, str]], *, where: str) -> Benchmark:
    try:
        label, kind, data = task["label"], task["icl_task_type"], task["dataset_uri"]
        if not isinstance(label, str) or not isinstance(kind, str) or not isinstance(data, str):
            raise TypeError("its label, kind and data file are no texts")
        num_fewshot = int(task["num_fewshot"][0])
        row = table[label]
        baseline = float(row["Random baseline"])
    except KeyError as error:
        raise CorruptError(f"{where} lacks {error}, in itself or in {TABLE}", hint="fetch the bundle again") from error
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise CorruptError(f"{where} has a value of another form: {error}", hint="fetch the bundle again") from error
    if kind not in get_args(Kind):
        raise CorruptError(f"{where} is of the kind {kind!r}", hint=f"known are {', '.join(get_args(Kind))}")
    if PurePosixPath(data).is_absolute() or ".." in PurePosixPath(data).parts or not 0 <= baseline < 100:
        raise CorruptError(f"{where} has the data file {data!r} and the baseline {baseline}")
    return Benchmark(
        label=label,
        kind=cast(Kind, kind),
        data=data,
        num_fewshot=num_fewshot,
        delimiter=str(task.get("continuation_delimiter", DEFAULT_DELIMITER)),
        baseline_percent=baseline,
        category=row["Task Category"],
    )


def _items(path: Path, kind: Kind) -> Iterator[Item]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            item = parse_json(line, path, line=number, error=CorruptError)
            complaint = _complaint(item, kind)
            if complaint:
                raise CorruptError(f"{path}, line {number}: {complaint}", hint="fetch the bundle again")
            yield item


def _complaint(item: Any, kind: Kind) -> str | None:
    """What an item lacks for its kind."""
    if not isinstance(item, dict):
        return f"{type(item).__name__} instead of an object"
    for field, wanted in FIELDS[kind].items():
        if not isinstance(item.get(field), wanted) or isinstance(item[field], bool):
            return f"{field!r} is {item.get(field)!r:.60}, not a {wanted.__name__}"
    if kind == "language_modeling":
        return None if item["continuation"].strip() else "the continuation is empty"
    options = item[OPTIONS[kind]]
    if not options or not all(isinstance(option, str) for option in options):
        return f"{OPTIONS[kind]!r} is no list of strings"
    return None if 0 <= item["gold"] < len(options) else f"gold {item['gold']} of {len(options)} options"
