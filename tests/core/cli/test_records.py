"""The verbs of records: stdout is the answer, JSON is only JSON, a refused bundle ends with 1, examples in the help."""

import json

import pytest
import typer
from core.record.synthetic import Runs, plan_with, step_records
from typer.testing import CliRunner

from nanochat_core import workspace
from nanochat_core.cli.app import Verbs
from nanochat_core.cli.records import register

app = typer.Typer(cls=Verbs, rich_markup_mode=None)
register(app)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def two_runs(tmp_path):
    """Two seeds in this home's store."""
    runs = Runs(workspace.current().store, tmp_path / "scratch")
    ids = []
    for seed in (42, 43):
        plan = plan_with(f"seed={seed}")
        sway = 10.0 * (seed - 42)  # no machine takes the same times twice, and no other seed ends at the same bits
        records = step_records(
            plan,
            step_ms=lambda step, sway=sway: 100.0 + sway * (-1) ** step,
            bits=lambda step, sway=sway: 2.0 + 1.0 / (1 + step) + sway / 1e4,
        )
        ids.append(runs.add(plan, records))
    return ids


def test_bundle_and_verify_say_what_they_did_and_a_changed_one_is_refused(two_runs, tmp_path):
    out = tmp_path / "b"
    made = invoke("bundle", *two_runs, "--out", out, "--target-bpb", "2.5")
    assert made.exit_code == 0, made.output
    assert "seed 43" in made.stdout
    assert f"nanochat verify {out}" in made.stdout.replace("\n", "")
    sound = invoke("verify", out)
    assert sound.exit_code == 0
    assert sound.stdout.startswith("sound: ")
    path = out / "record.json"
    path.write_text(path.read_text().replace('"clock_s": 3.0', '"clock_s": 2.0', 1))
    refused = invoke("verify", out)
    assert refused.exit_code == 1
    assert "claims.clock_s is 2.0" in refused.stdout.replace("\n", "")
    assert refused.stderr == ""


def test_json_is_nothing_but_json(two_runs, tmp_path):
    bundled = json.loads(invoke("bundle", two_runs[0], "--out", tmp_path / "b.zip", "--json").stdout)
    assert bundled["claims"]["seeds"] == [42]
    verdict = json.loads(invoke("verify", tmp_path / "b.zip", "--json").stdout)
    assert verdict["is_sound"] is True
    assert verdict["claims"] == bundled["claims"]
    assert {row["is_published"] for row in json.loads(invoke("leaderboard", "--json").stdout)} == {True}
    listed = json.loads(invoke("runs", "list", "--json").stdout)
    assert [run["run_id"] for run in listed] == two_runs[::-1]
    assert json.loads(invoke("runs", "show", two_runs[0], "--json").stdout)["clock"]["num_steps"] == 30
    compared = json.loads(invoke("runs", "compare", *two_runs, "--json").stdout)
    assert compared["settings"] == {"seed": {"a": 42, "b": 43}}
    assert compared["multiplier_of_a"]["value"] == pytest.approx(1.0292, abs=1e-4)  # b ends 0.001 bits higher


def test_the_json_of_a_refusal_lists_file_place_and_text(two_runs, tmp_path):
    invoke("bundle", two_runs[0], "--out", tmp_path / "b")
    (tmp_path / "b/evidence" / two_runs[0] / "plan.json").unlink()
    refused = invoke("verify", tmp_path / "b", "--json")
    assert refused.exit_code == 1
    verdict = json.loads(refused.stdout)
    assert not verdict["is_sound"]
    assert verdict["claims"] is None
    assert {"file": f"evidence/{two_runs[0]}/plan.json", "where": "", "text": "is missing"}.items() <= verdict[
        "problems"
    ][0].items()


def test_tables_are_for_people(two_runs):
    assert "seed" in invoke("runs", "compare", *two_runs).stdout
    assert two_runs[0] in invoke("runs", "list").stdout
    assert "evaluate_base" in invoke("runs", "show", "latest").stdout
    assert "1.65 h" in invoke("leaderboard").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["verify", "/absent"], 3, "no bundle at /absent"),
        (["bundle", "nobody"], 3, "no run nobody"),
        (["bundle", "latest"], 3, "no run latest"),
        (["runs", "show", "nobody"], 3, "no run nobody"),
        (["runs", "compare", "nobody", "latest"], 3, "no run nobody"),
        (["leaderboard", "--bundle", "/absent"], 3, "no bundle at /absent"),
    ],
)
def test_what_is_not_there_ends_with_3_one_line_and_a_hint(arguments, code, said):
    done = invoke(*arguments)
    assert done.exit_code == code
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert second.startswith("hint: ")
    assert done.stdout == ""


def test_an_empty_store_has_an_empty_list(home):
    assert json.loads(invoke("runs", "list", "--json").stdout) == []
    assert "no runs yet" in invoke("runs", "list").stdout


@pytest.mark.parametrize(
    "verb", [["bundle"], ["verify"], ["leaderboard"], *(["runs", v] for v in ("list", "show", "compare"))]
)
def test_every_help_opens_with_two_examples(verb):
    text = invoke(*verb, "--help").stdout
    assert text.count(f"nanochat {' '.join(verb)}") >= 2
