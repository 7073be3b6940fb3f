"""The embedded corpus: the same bytes in every process, about ten megabytes of prose."""

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from nanochat_core.data import documentation
from nanochat_core.data.documentation import Entry, first_sentence
from tests.core.base.test_syntax import pythons, told_by

ROOT = Path(__file__).resolve().parents[3]
DIGEST = """
import hashlib
from nanochat_core.data.documentation import documents
digest, num_bytes, num_docs, largest = hashlib.sha256(), 0, 0, 0
for text in documents():
    raw = text.encode("utf-8")
    digest.update(raw + b"\\0")
    num_bytes, num_docs, largest = num_bytes + len(raw), num_docs + 1, max(largest, len(raw))
print(digest.hexdigest(), num_bytes, num_docs, largest)
"""


@pytest.fixture(scope="module")
def runs():
    children = [
        subprocess.Popen(
            [sys.executable, "-c", DIGEST],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    return [child.communicate()[0].split() for child in children]


def test_two_processes_with_other_hashes_give_the_same_documents(runs):
    assert runs[0] == runs[1]


def test_the_newest_other_python_reads_the_same_from_the_same_packages(runs):
    """So machines that share a store make one corpus, whatever Python each has."""
    others = {release: path for release, path in pythons().items() if release != sys.version_info[:3]}
    if not others:
        pytest.skip("there is no other Python here")
    installed = sysconfig.get_paths()["purelib"]
    program = (
        "import hashlib; from pathlib import Path; from nanochat_core.data import documentation; "
        "sys.path.append(given); "
        "documentation._installed = lambda: Path(given); digest = hashlib.sha256(); "
        "[digest.update(text.encode('utf-8') + b'\\0') for text in documentation.documents()]; "
        "print(json.dumps(digest.hexdigest()))"
    )
    assert told_by(others[max(others)], program, installed) == runs[0][0]


def test_there_are_about_ten_megabytes_in_documents_of_about_a_page(runs):
    _, num_bytes, num_docs, _ = runs[0]
    assert 0.9 * documentation.MAX_BYTES < int(num_bytes) <= documentation.MAX_BYTES
    assert 500 < int(num_bytes) / int(num_docs) < 6000


def test_no_code_of_a_module_is_run(tmp_path):
    source = tmp_path / "hostile.py"
    source.write_text('"""What this module says."""\nraise SystemExit("it was run")\ndef f(a, *, b=1):\n    "Doc."\n')
    entries = documentation._entries_of_source(source, "hostile")
    assert entries == [
        Entry("hostile", "hostile", "What this module says.", 1),
        Entry("hostile.f", "hostile.f(a, *, b=1)", "Doc.", 3),
    ]


@pytest.mark.parametrize("content", [b"def f(:", b"\xff\xfe", b"x = '\0'"])
def test_a_file_that_is_no_python_gives_nothing(tmp_path, content):
    (tmp_path / "broken.py").write_bytes(content)
    assert documentation._entries_of_source(tmp_path / "broken.py", "broken") == []


def test_private_names_are_left_out_and_methods_are_in():
    first = "class A:\n '''a'''\n def m(self): '''m'''\n def _p(self): '''p'''\n"
    tree = ast.parse(first + "class _B:\n def m(self): '''x'''")
    entries = []
    documentation._collect(tree, "mod", entries)
    assert [entry.name for entry in entries] == ["mod.A", "mod.A.m"]


def test_pages_keep_every_entry_in_order():
    entries = [Entry(f"name{i}", f"name{i}(x)", "words " * 200, 7 * i) for i in range(30)]
    pages = list(documentation._pages("source.py", entries))
    assert len(pages) > 3
    assert all(page.line == 7 * int(page.text.removeprefix("name").split("(")[0]) for page in pages)
    whole = "\n".join(page.text for page in pages)
    assert [whole.index(f"name{i}(x)") for i in range(30)] == sorted(whole.index(f"name{i}(x)") for i in range(30))


def test_cutting_a_text_loses_nothing():
    text = "\n\n".join(f"paragraph {i} " + "word " * 100 for i in range(60))
    pages = list(documentation._cut(text, "readme"))
    assert "\n\n".join(page.text for page in pages) == text
    lines = text.split("\n")
    assert all(lines[page.line - 1] == page.text.split("\n")[0] for page in pages)


@pytest.mark.parametrize(
    ("doc", "sentence"),
    [
        ("Return the greatest common divisor. More follows.", "Return the greatest common divisor."),
        ("Return the greatest\n    common divisor.\n\nMore.", "Return the greatest common divisor."),
        ("Too short.", None),
        ("lower case at the start is no sentence.", None),
        ("A sentence that does not end with a stop", None),
        ("Use `code` in the middle of this sentence.", None),
        ("A sentence with an é, which is not ASCII.", None),
        ("A" + " long" * 40 + ".", None),
        ("", None),
    ],
)
def test_first_sentences(doc, sentence):
    assert first_sentence(doc) == sentence
