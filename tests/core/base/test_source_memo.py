"""What is kept of parsed sources changes no digest: not when it is damaged, nor when another program had written it."""

from pathlib import Path

import pytest

from nanochat_core.base import closure as fp
from nanochat_core.base.source_memo import NUM_KEPT, SourceMemo

ENTRY = "nanochat_core.model.gpt"


def closure(entries: list[str], *, memo: SourceMemo | None = None) -> dict[str, str]:
    """As a new process finds it."""
    fp._tree_of.cache_clear()
    fp._source.cache_clear()
    return fp.code_closure(entries, memo=memo)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home/sources.json"


@pytest.fixture
def num_parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules that were parsed, as they are."""
    parsed: list[str] = []
    facts = fp._facts

    def noted(content: bytes, file: Path, module: str, package: str) -> dict[str, object]:
        parsed.append(module)
        return facts(content, file, module, package)

    monkeypatch.setattr(fp, "_facts", noted)
    return parsed


def test_a_second_process_parses_nothing_and_has_the_same_digests(path: Path, num_parsed: list[str]) -> None:
    expected = closure([ENTRY])
    assert closure([ENTRY], memo=SourceMemo(path)) == expected
    num_parsed.clear()
    assert closure([ENTRY], memo=SourceMemo(path)) == expected
    assert num_parsed == []


@pytest.mark.parametrize("at", [0, 30, 70, 200, -2])
def test_a_damaged_file_is_not_believed(path: Path, num_parsed: list[str], at: int) -> None:
    expected = closure([ENTRY], memo=SourceMemo(path))
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    num_parsed.clear()
    assert closure([ENTRY], memo=SourceMemo(path)) == expected
    assert len(num_parsed) >= len(expected)
    num_parsed.clear()
    assert closure([ENTRY], memo=SourceMemo(path)) == expected
    assert num_parsed == [], "it was written anew"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b"half a\nfile"])
def test_a_file_of_something_else_is_no_error(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert closure([ENTRY], memo=SourceMemo(path)) == closure([ENTRY])


def test_another_reader_reads_for_itself(path: Path, num_parsed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    closure([ENTRY], memo=SourceMemo(path))
    num_parsed.clear()
    monkeypatch.setattr(fp, "_reader", lambda: "another release")
    closure([ENTRY], memo=SourceMemo(path))
    assert num_parsed


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    memo = SourceMemo(tmp_path / "home/sources.json")
    assert closure([ENTRY], memo=memo) == closure([ENTRY])


def test_it_does_not_grow_for_ever(path: Path) -> None:
    memo = SourceMemo(path)
    for number in range(NUM_KEPT + 10):
        memo.put(str(number), {"digest": "x"})
    memo.save()
    kept = SourceMemo(path)
    assert kept.get("9") is None
    assert kept.get("10") == kept.get(str(NUM_KEPT + 9)) == {"digest": "x"}
