"""Figures are artifacts: the same inputs give the same bytes, and each is an element for a page."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from nanochat_core.base.fingerprint import code_closure
from nanochat_core.report.figures import draw_figures
from nanochat_core.report.training_figures import TrainingLog, smoothed
from nanochat_core.store.manifest import LOG_FOLDER


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture
def drawn(folders: dict[str, Path], tmp_path: Path, draw_once) -> Path:
    out = tmp_path / "out"
    draw_once(folders, out)
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


def test_a_run_made_again_elsewhere_has_the_same_report_and_its_own_times(folders, drawn, tmp_path):
    """Half as fast, other memory, resumed once, another day; another home, time zone and language."""
    for step in ("pretrain", "sft"):
        path = folders[step] / "log/metrics.jsonl"
        path.write_text("".join(_elsewhere(json.loads(line)) for line in path.read_text().splitlines()))
    out, inputs = tmp_path / "elsewhere", {name: str(path) for name, path in folders.items()}
    out.mkdir()
    program = (
        "import json, sys; from pathlib import Path; from nanochat_core.report.figures import draw_figures\n"
        "draw_figures({name: Path(path) for name, path in json.loads(sys.argv[1]).items()}, Path(sys.argv[2]))"
    )
    surroundings = {"HOME": str(tmp_path), "TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}
    command = [sys.executable, "-c", program, json.dumps(inputs), str(out)]
    subprocess.run(command, check=True, env={**os.environ, **surroundings, "PYTHONHASHSEED": "7"})
    here, there = _contents(drawn), _contents(out)
    logs = {name for name in here if name.startswith(f"{LOG_FOLDER}/")}
    assert here.keys() == there.keys()
    assert {name: here[name] for name in here.keys() - logs} == {name: there[name] for name in here.keys() - logs}
    assert logs == {"log/times.json", "log/pretrain_bpb_time.svg", "log/step_time.svg", "log/throughput.svg"}
    assert all(here[name] != there[name] for name in logs)


def _elsewhere(record: dict) -> str:
    slower = {name: 2 * record[name] for name in ("train_s", "step_ms", "validate_s", "save_s") if name in record}
    faster = {name: record[name] / 2 for name in ("tokens_per_s",) if name in record}
    when = {"time_s": 1.9e9 + record.get("step", 0)} if "time_s" in record else {}
    memory = {"memory_gib": 7.5} if "memory_gib" in record else {}
    start = json.dumps({"event": "start", "step": 40, "world_size": 2, "time_s": 1.9e9}) + "\n"
    again = start if record["event"] == "step" and record["step"] == 41 else ""
    return again + json.dumps({**record, **slower, **faster, **when, **memory}) + "\n"


def test_every_figure_is_valid_xml_that_scales_and_names_no_site(drawn):
    figures = sorted(drawn.rglob("*.svg"))
    assert len(figures) == 9
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
    elements = [element for path in drawn.rglob("*.svg") for element in ElementTree.fromstring(path.read_text()).iter()]
    ids = [element.attrib["id"] for element in elements if "id" in element.attrib]
    assert ids
    assert len(ids) == len(set(ids))


def test_numbers_are_those_of_the_inputs(folders, tmp_path):
    metrics = draw_figures(folders, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert metrics["num_figures"] == len(report["figures"]) == 9
    assert metrics["chat_bits_per_byte"] == 2.1
    assert report["benchmarks"]["arithmetic"]["num_right"] == 97
    assert report["benchmarks"]["arithmetic"]["standard_error"] == pytest.approx(0.0171, abs=1e-4)
    assert report["trainings"]["pretrain"]["num_tokens"] == 416 * 8192
    assert report["trainings"]["sft"]["num_records"] == 230 + 2


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
    assert report["trainings"]["pretrain"] == {"num_records": 0}


def test_one_step_and_no_validation_still_draw(folders, tmp_path):
    records = (folders["sft"] / "log/metrics.jsonl").read_text().splitlines()
    (folders["sft"] / "log/metrics.jsonl").write_text("\n".join(records[:2]) + "\n")
    assert draw_figures(folders, tmp_path)["num_figures"] == 8


def test_a_single_validation_is_a_dot_and_not_a_curve(folders, tmp_path):
    path = folders["sft"] / "log/metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if not ('"validate"' in line and '"step": 200' in line)]
    path.write_text("\n".join(kept) + "\n")
    assert draw_figures(folders, tmp_path)["num_figures"] == 8
    assert "dots: held out" in (tmp_path / "sft_loss.svg").read_text()


def test_smoothing_does_not_lag_behind_a_fall():
    line = np.linspace(5.0, 1.0, 301)
    assert np.allclose(smoothed(line)[:-6], line[:-6])
    assert smoothed(line)[-1] == pytest.approx(line[-7:].mean())
    assert np.allclose(smoothed(np.array([3.0])), [3.0])


def test_a_change_to_the_page_or_the_model_does_not_redraw_figures():
    modules = {name.partition(":")[0] for name in code_closure(["nanochat_core.report.figures"])}
    assert modules <= {
        "nanochat_core", "nanochat_core.base", "nanochat_core.base.files", "nanochat_core.base.records",
        "nanochat_core.base.units",
        "nanochat_core.evals", "nanochat_core.evals.core", "nanochat_core.evals.core.gpt2",
        "nanochat_core.report", "nanochat_core.report.benchmark_figures",
        "nanochat_core.report.canvas", "nanochat_core.report.core_figures", "nanochat_core.report.core_table",
        "nanochat_core.report.figures", "nanochat_core.report.references", "nanochat_core.report.rl_figures",
        "nanochat_core.report.training_figures",
    }  # fmt: skip


def test_core_and_chat_benchmarks_give_figures_that_say_in_words_what_they_show(
    more_folders, drawn, tmp_path, draw_once
):
    out = tmp_path / "more"
    draw_once(more_folders, out)
    fresh = sorted({path.name for path in out.rglob("*.svg")} - {path.name for path in drawn.rglob("*.svg")})
    assert fresh == ["chat_benchmarks.svg", "core.svg", "core_benchmarks.svg"]
    for path in out.rglob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert root.attrib["role"] == "img"
        assert title is not None
        assert title.text == root.attrib["aria-label"]
    assert "GPT-2's 0.2565" in ElementTree.parse(out / "core.svg").getroot().attrib["aria-label"]
    assert "SFT: mmlu" in ElementTree.parse(out / "chat_benchmarks.svg").getroot().attrib["aria-label"]


def test_figures_of_all_inputs_are_the_same_bytes_again(more_folders, tmp_path, draw_once):
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    draw_once(more_folders, first)
    draw_figures(more_folders, second)
    assert _contents(first) == _contents(second)


def test_without_the_optional_inputs_nothing_of_them_is_in_the_report(drawn):
    report = json.loads((drawn / "report.json").read_text())
    assert (report["core"], report["chat_benchmarks"]) == ({}, {})
    assert set(report["trainings"]) == {"pretrain", "sft"}
    assert {figure["section"] for figure in report["figures"]} == {"questions", "pretrain", "sft", "tokenizer"}


def test_wrong_answers_come_from_the_last_stage_and_are_clipped(more_folders, tmp_path, draw_once):
    draw_once(more_folders, tmp_path / "out")
    wrong = json.loads((tmp_path / "out" / "report.json").read_text())["wrong_answers"]
    assert [answer["benchmark"] for answer in wrong] == ["arithmetic", "spelling", "mmlu", "gsm8k"]
    assert "benchmark_chat" in wrong[2]["question"]
    assert len(wrong[2]["answer"]) < 410


def test_time_of_a_validation_is_that_of_the_steps_before_it(folders):
    log = TrainingLog.read(folders["pretrain"])
    assert log.validation_s() == pytest.approx([19.0, 38.0, 57.0, 76.0, 416 * 0.19])


def test_half_a_character_in_an_answer_does_not_stop_the_report(more_folders, tmp_path):
    outcome = {"benchmark": "mmlu", "id": "1", "sample": 0, "question": "\ud800", "expected": "A", "answer": "\udfff",
               "is_right": False}  # fmt: skip
    (more_folders["benchmark_chat"] / "outcomes.jsonl").write_text(json.dumps(outcome) + "\n")
    draw_figures(more_folders, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["wrong_answers"][2]["question"] == "\ud800"
