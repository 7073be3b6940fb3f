"""What a path means: a path that exists is that file, and nothing of a folder is passed over in silence."""

import os
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data.files import find, note_of, role_of

KINDS = ("parquet", "jsonl", "json", "txt")


@pytest.fixture
def make(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("text")
        return tmp_path

    return make


def _find(path):
    return find(str(path), KINDS, setting="corpus.path")


def _left_out(found):
    return {each.name: each.reason for each in found.left_out}


def test_all_that_a_folder_holds_is_read_or_named_once(make):
    read = ["B.JSONL", "C.Parquet", "D.TXT", "a.jsonl", "e.JSON", "f.jsonl.zst", "g.txt.gz", "h.ndjson.bz2",
            "i.json.xz", "sub/deep/j.txt"]  # fmt: skip
    hidden = (".DS_Store", "._a.jsonl", ".git", "Thumbs.db", "sub/desktop.ini", "__MACOSX")
    left_out = dict.fromkeys(hidden, "hidden or a system file") | {
        "README": "no ending that says what it is", "k.csv": ".csv is not read here",
        "l.zip": ".zip is an archive: unpack it", "m.parquet.gz": "packed .parquet is not read: unpack it",
        "x.jsonl.part": ".part is not read",
    }  # fmt: skip
    root = make(
        *read, ".git/config", "__MACOSX/a.jsonl", *(name for name in left_out if name not in (".git", "__MACOSX"))
    )
    (root / "empty.jsonl").touch()
    found = _find(root)
    assert sorted(found.names) == sorted(read)
    assert _left_out(found) == left_out | {"empty.jsonl": "empty"}
    note = note_of(found, setting="corpus.path")
    assert [name for name in _left_out(found) if note.count(name) < 1] == []
    assert "\n" not in note


def test_links_are_followed_and_nothing_is_read_twice(make, tmp_path_factory):
    root = make("a.jsonl", "sub/b.jsonl")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "c.jsonl").write_text("text")
    (root / "linked").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)
    (root / "sub" / "up").symlink_to(root.parent)
    (root / "to-a.jsonl").symlink_to(root / "a.jsonl")
    (root / "to-nothing.jsonl").symlink_to(root / "nothing")
    (root / "itself.jsonl").symlink_to(root / "itself.jsonl")
    os.mkfifo(root / "pipe.jsonl")
    found = _find(root)
    assert found.names == ["a.jsonl", "linked/c.jsonl", "sub/b.jsonl"]
    assert _left_out(found) == {
        "loop": f"the same as {root}, by a link",
        "sub/up": "a link to a folder above",
        "to-a.jsonl": "the same as a.jsonl, by a link",
        "to-nothing.jsonl": "a link that leads nowhere",
        "itself.jsonl": "a link that leads nowhere",
        "pipe.jsonl": "no regular file",
    }
    assert _find(root / "**" / "*.jsonl").names == found.names


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(make):
    root = make("a.jsonl", "b.jsonl", "closed/c.jsonl")
    (root / "b.jsonl").chmod(0)
    (root / "closed").chmod(0)
    assert _left_out(_find(root)).keys() == {"b.jsonl", "closed"}
    (root / "closed").chmod(0o755)


@pytest.mark.parametrize("folder", ["[wiki] 100% #1? {a,b} $x ü", "**", "a*b", "~x", " "])
def test_a_path_that_exists_is_that_path_whatever_characters_it_has(make, folder):
    root = make(f"{folder}/enwiki[2024]*.jsonl", f"{folder}/enwiki2.jsonl", "w/a.jsonl")
    assert _find(root / folder).names == ["enwiki2.jsonl", "enwiki[2024]*.jsonl"]
    assert _find(root / folder / "enwiki[2024]*.jsonl").names == ["enwiki[2024]*.jsonl"]
    assert _find(root / folder / "enwiki[1-9].jsonl").names == ["enwiki2.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "s/b.jsonl", "s/t/c.jsonl"]),
        ("**.jsonl", ["a.jsonl", "s/b.jsonl", "s/t/c.jsonl"]),
        ("s/**", ["s/b.jsonl", "s/t/c.jsonl"]),
        ("**", ["a.jsonl", "d.txt", "s/b.jsonl", "s/t/c.jsonl"]),
        ("?/*", ["s/b.jsonl", "s/t/c.jsonl"]),
        ("{a.jsonl,d.txt}", ["a.jsonl", "d.txt"]),
        ("[ad].*", ["a.jsonl", "d.txt"]),
    ],
)
def test_patterns_mean_what_people_write(make, pattern, names):
    root = make("a.jsonl", "s/b.jsonl", "s/t/c.jsonl", "d.txt", ".hidden/e.jsonl")
    assert [path.relative_to(root).as_posix() for path in _find(root / pattern).files] == names


def test_a_pattern_and_a_home_are_relative_to_where_one_is(make, monkeypatch):
    root = make("data/a.jsonl")
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root))
    for path in ("data", "data/*.jsonl", "./data/a.jsonl", "../*/data/a.json*", "~/data", "~/da*/a.jsonl"):
        assert [file.name for file in _find(path).files] == ["a.jsonl"], path


def test_a_path_to_nothing_says_what_was_looked_for_and_near_names(make):
    root = make("wikipedia/a.jsonl", "notes.txt")
    with pytest.raises(MissingError, match=r"corpus\.path = .*wikipedai") as error:
        _find(root / "wikipedai")
    assert error.value.hint == "did you mean wikipedia?"
    with pytest.raises(MissingError, match="pattern") as error:
        _find(root / "*.parquet")
    assert str(root) in error.value.message
    with pytest.raises(MissingError, match=r"an empty folder"):
        _find(make("empty/x").joinpath("empty/x").unlink() or root / "empty")
    with pytest.raises(MissingError, match=r"a\.csv \(\.csv is not read here\)"):
        _find(make("only/a.csv") / "only")
    (root / "gone").symlink_to(root / "nothing")
    with pytest.raises(MissingError, match=r"leads nowhere"):
        _find(root / "gone")
    for path in (None, ""):
        with pytest.raises(ConfigError, match=r"corpus\.path"):
            find(path, KINDS, setting="corpus.path")


def test_many_names_are_counted(make):
    found = _find(make("a.txt", *(f"{number:03}.pdf" for number in range(200))))
    assert note_of(found, setting="corpus.path").endswith("007.pdf and 192 more (.pdf is not read)")
    assert note_of(_find(found.root / "a.txt"), setting="corpus.path") is None


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train.jsonl", "train"), ("train-00000-of-00010.parquet", "train"), ("data/train/x.jsonl", "train"),
        ("my.train.txt", "train"), ("TRAIN.jsonl", "train"), ("train2.jsonl", "train"), ("test/x.txt", "held out"),
        ("valid.txt", "held out"), ("val_set.txt", "held out"), ("dev/x.txt", "held out"),
        ("a-validation.txt", "held out"),
        ("train/test_cases.txt", "train"), ("my-test-data/train.txt", "train"), ("train_test.txt", None),
        ("training_notes.txt", None), ("testament.txt", None), ("validated.txt", None), ("devices.jsonl", None),
        ("contest.txt", None), ("tést.txt", None), ("évaluation.txt", None),
    ],
)  # fmt: skip
def test_a_file_is_for_what_a_whole_word_of_its_name_says(name, role):
    assert role_of(name) == role


def test_names_that_are_no_text_are_shown(tmp_path):
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv"))
    bad.write_text("x")
    (tmp_path / "a.txt").write_text("x")
    assert "caf\ufffd.csv" in note_of(_find(tmp_path), setting="corpus.path")
