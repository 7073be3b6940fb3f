"""Figures are artifacts: the same inputs give the same bytes, and each is an element for a page."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from nanochat_core.base.fingerprint import code_closure
from nanochat_core.report.figures import draw_figures, smoothed


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def drawn(folders: dict[str, Path], tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    draw_figures(folders, out)
    return out


def test_the_same_inputs_give_the_same_bytes(folders, drawn, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    matplotlib.rcParams["font.size"] = 30  # somebody's own style
    try:
        draw_figures(folders, again)
        assert matplotlib.rcParams["font.size"] == 30
    finally:
        matplotlib.rcdefaults()
    assert _contents(drawn) == _contents(again)


def test_every_figure_is_valid_xml_that_scales_and_names_no_site(drawn):
    figures = sorted(drawn.glob("*.svg"))
    assert len(figures) == 8
    for path in figures:
        root = ElementTree.fromstring(path.read_text())
        assert root.tag.endswith("svg")
        assert "viewBox" in root.attrib
        assert "width" not in root.attrib
        text = path.read_text()
        assert "<style" not in text  # it would apply to the whole page
        assert "#0101" not in text  # a stand-in for a colour
        assert "DejaVu" not in text
        assert 'href="http' not in text


def test_figures_in_one_page_share_no_id(drawn):
    elements = [element for path in drawn.glob("*.svg") for element in ElementTree.fromstring(path.read_text()).iter()]
    ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
    assert ids
    assert len(ids) == len(set(ids))


def test_numbers_are_those_of_the_inputs(folders, tmp_path):
    metrics = draw_figures(folders, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert metrics["num_figures"] == len(report["figures"]) == 8
    assert metrics["chat_bits_per_byte"] == 2.1
    assert report["benchmarks"]["arithmetic"]["num_right"] == 97
    assert report["benchmarks"]["arithmetic"]["standard_error"] == pytest.approx(0.0171, abs=1e-4)
    assert report["pretrain"]["num_tokens"] == 416 * 8192
    assert report["sft"]["num_records"] == 230 + 2


def test_wrong_answers_come_from_as_many_benchmarks_as_possible(drawn):
    wrong = json.loads((drawn / "report.json").read_text())["wrong_answers"]
    assert [answer["benchmark"] for answer in wrong] == ["arithmetic", "spelling", "arithmetic"]
    assert not any(answer["is_right"] for answer in wrong)


def test_what_is_missing_is_left_out(folders, tmp_path):
    for name in ("pretrain", "evaluate_chat", "tokenizer"):
        shutil.rmtree(folders[name])
        folders[name].mkdir()
    out = tmp_path / "out"
    out.mkdir()
    assert draw_figures(folders, out)["num_figures"] == 2  # fine-tuning's
    report = json.loads((out / "report.json").read_text())
    assert report["benchmarks"] == {}
    assert report["pretrain"] == {"num_records": 0}


def test_one_step_and_no_validation_still_draw(folders, tmp_path):
    records = (folders["sft"] / "log/metrics.jsonl").read_text().splitlines()
    (folders["sft"] / "log/metrics.jsonl").write_text("\n".join(records[:2]) + "\n")
    assert draw_figures(folders, tmp_path)["num_figures"] == 7


def test_a_single_validation_is_a_dot_and_not_a_curve(folders, tmp_path):
    path = folders["sft"] / "log/metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if not ('"validate"' in line and '"step": 200' in line)]
    path.write_text("\n".join(kept) + "\n")
    assert draw_figures(folders, tmp_path)["num_figures"] == 7
    assert "dots: held out" in (tmp_path / "sft_loss.svg").read_text()


def test_smoothing_does_not_lag_behind_a_fall():
    line = np.linspace(5.0, 1.0, 301)
    assert np.allclose(smoothed(line)[:-6], line[:-6])
    assert smoothed(line)[-1] == pytest.approx(line[-7:].mean())
    assert np.allclose(smoothed(np.array([3.0])), [3.0])


def test_a_change_to_the_page_or_the_model_does_not_redraw_figures():
    modules = {name.partition(":")[0] for name in code_closure(["nanochat_core.report.figures"])}
    assert modules <= {
        "nanochat_core", "nanochat_core.base", "nanochat_core.base.records", "nanochat_core.base.units",
        "nanochat_core.report", "nanochat_core.report.canvas", "nanochat_core.report.figures",
    }  # fmt: skip
