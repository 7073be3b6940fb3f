"""A bundle from a folder, a zip and a URL is the same one; what is torn or another one is refused."""

import pytest
from http_server import HttpServer

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.config import CoreConfig
from nanochat_core.data.hub import Patience
from nanochat_core.evals.core.bundle import file_sha256, read_bundle
from nanochat_core.evals.core.bundle_source import obtain_bundle, open_bundle

IMPATIENT = Patience(num_tries=2, backoff_base_s=0.01, connect_timeout_s=2)


def test_folder_zip_and_url_are_the_same_bundle(bundle_folder, make_zip, tmp_path):
    zips = [make_zip(bundle_folder, top) for top in ("", "eval_bundle/")]
    sources = [bundle_folder, *zips, zips[1].as_uri()]
    bundles = [open_bundle(source, tmp_path / f"work{number}") for number, source in enumerate(sources)]
    assert len({bundle.digest for bundle in bundles}) == 1
    assert len({bundle.benchmarks for bundle in bundles}) == 1
    assert [benchmark.label for benchmark in bundles[0].benchmarks] == ["copa", "piqa", "winograd", "jeopardy"]
    assert [bundle.archive_sha256 for bundle in bundles] == [None, *map(file_sha256, zips), file_sha256(zips[1])]
    piqa = bundles[3].benchmarks[1]
    assert (piqa.num_fewshot, piqa.delimiter, piqa.baseline_percent) == (3, "\nAnswer: ", 50.0)
    assert bundles[3].items(piqa)[4]["query"] == "Question: How do I open jar 4?\n"


@pytest.fixture
def served(bundle_folder, make_zip):
    """The bundle's zip behind a real HTTP server that can misbehave."""
    path = make_zip(bundle_folder, "")
    with HttpServer() as server:
        server.files["/eval_bundle.zip"] = path.read_bytes()
        yield server, path


def test_a_download_with_another_digest_is_refused(served, tmp_path):
    server, path = served
    url = f"{server.url}/eval_bundle.zip"
    assert open_bundle(url, tmp_path / "a", sha256=file_sha256(path).upper()).missing == ()
    assert open_bundle(url, tmp_path / "c").archive_sha256 == file_sha256(path)
    with pytest.raises(CorruptError, match=f"{'0' * 64}"):
        open_bundle(url, tmp_path / "b", sha256="0" * 64, patience=IMPATIENT)


def test_a_url_that_nobody_answers_says_what_else_can_be_done(tmp_path):
    with pytest.raises(MissingError) as caught:
        open_bundle("http://127.0.0.1:9/eval_bundle.zip", tmp_path, patience=IMPATIENT)
    assert "core.path" in (caught.value.hint or "")


def test_a_torn_zip_leaves_no_folder_that_looks_whole(bundle_folder, make_zip, tmp_path):
    path = make_zip(bundle_folder, "")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptError, match="no whole zip"):
        open_bundle(path, tmp_path / "work")
    assert [name for name in (tmp_path / "work").iterdir() if not name.name.endswith(".part")] == []


def test_a_name_in_a_zip_cannot_leave_the_folder(bundle_folder, make_zip, tmp_path):
    (bundle_folder / "eval_data/escaped.jsonl").write_text("{}\n")
    with pytest.raises(CorruptError, match="no plain file"):
        open_bundle(make_zip(bundle_folder, "../../x/"), tmp_path / "work" / "deep")
    assert not list(tmp_path.glob("x/**/escaped.jsonl"))


def test_what_is_obtained_is_a_bundle_of_the_same_content(bundle_folder, make_zip, tmp_path):
    path = make_zip(bundle_folder, "eval_bundle/")
    for number, config in enumerate(
        [CoreConfig(source="url", url=path.as_uri()), CoreConfig(source="path", path=str(bundle_folder))]
    ):
        out = tmp_path / f"out{number}"
        metrics = obtain_bundle(config, out, downloads=tmp_path / f"downloads{number}")
        assert read_bundle(out).digest == read_bundle(bundle_folder).digest == metrics["bundle_digest"]
        assert metrics["num_benchmarks"] == 4
    with pytest.raises(ConfigError, match=r"core\.source"):
        obtain_bundle(CoreConfig(), tmp_path, downloads=tmp_path)
