"""The verbs: one line and a hint for every wrong input, the right exit code, and JSON that is only JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from nanochat_core.cli.app import app, check_step, complete_setting
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config

ROOT = Path(__file__).resolve().parents[3]


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["plan", "tinny"], 2, "no preset 'tinny'"),
        (["plan", "tiny", "--set", "pretrain.dept=2"], 2, "unknown setting pretrain.dept"),
        (["plan", "tiny", "--set", "nonsense"], 2, "not of the form"),
        (["plan", "tiny", "--depth", "0"], 2, "depth = 0"),
        (["plan", "--depth", "200"], 2, "depth = 200"),
        (["plan", "tiny", "--set", "tokenizer.vocab_size=200"], 2, "vocab_size = 200"),
        (["plan", "tiny", "--set", "runtime.gpu=GTX"], 2, "GTX"),
        (["plan", "tiny", "--set", "corpus.source=path"], 2, "corpus.path"),
        (["plan", "tiny", "--set", "corpus.source=path", "--set", "corpus.path=/absent"], 3, "/absent"),
        (["why", "bake"], 2, "no step 'bake'"),
        (["chat", "--temperature", "99", "-p", "x"], 2, "temperature = 99"),
        (["chat", "-p", "x"], 3, "no chat model"),
        (["chat", "absent@v1", "-p", "x"], 3, "absent"),
        (["import-checkpoint", "/absent", "out"], 3, "/absent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_a_hint_and_an_exit_code(arguments, code, said):
    done = _run(*arguments)
    assert done.exit_code == code, done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert len(rest) <= 1
    assert all(line.startswith("hint: ") for line in rest)
    assert done.stdout == ""


def test_a_plan_as_json_is_nothing_but_json():
    done = _run("plan", "tiny", "--json")
    assert done.exit_code == 0
    plan = json.loads(done.stdout)
    assert plan["preset"] == "tiny"
    assert plan["pretrain"]["num_steps"] > 0
    assert {step["state"] for step in plan["steps"]} == {"run"} or "cached" not in {s["state"] for s in plan["steps"]}


def test_a_plan_for_people_shows_the_derived_numbers():
    done = _run("plan", "gpt2", "--depth", "12")
    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("depth 12", "width 768", "6 heads", "GiB"))


def test_why_names_what_is_missing():
    done = _run("why", "tokenizer", "tiny")
    assert done.exit_code == 0
    assert "tokenizer would run" in done.stdout
    assert json.loads(_run("why", "tokenizer", "tiny", "--json").stdout)["step"] == "tokenizer"


def test_every_verb_has_help_with_two_examples():
    for verb in ("plan", "why", "chat", "doctor", "import-checkpoint"):
        done = _run(verb, "--help")
        assert done.exit_code == 0
        assert done.stdout.count(f"nanochat {verb}") >= 2


def test_the_doctor_fails_when_something_is_wrong(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    done = _run("doctor")
    assert done.exit_code == 1
    assert "BAD  prefect server" in done.stdout
    assert "mend it: unset PREFECT_API_URL" in done.stdout
    found = json.loads(_run("doctor", "--json").stdout)
    assert [finding["check"] for finding in found if not finding["is_good"]][-1] == "prefect server"


def test_a_nanochat_checkpoint_is_imported(golden_d4, tmp_path):
    done = _run("import-checkpoint", golden_d4, tmp_path / "model")
    assert done.exit_code == 0, done.stderr
    assert "depth 4" in done.stdout
    assert load_file(tmp_path / "model" / "model.safetensors")["embed.weight"].shape == (320, 128)


def test_a_reader_that_goes_away_is_no_error(home):
    code = "from nanochat_core.cli.app import app; app()"
    command = f"{sys.executable} -c '{code}' plan tiny --json | head -c 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("step", "switches"),
    [
        ("rl", ["rl.enabled=true"]),
        ("rl_questions", ["rl.enabled=true"]),
        ("evaluate_rl", ["rl.enabled=true"]),
        ("benchmark_rl", ["benchmarks.source=hub", "rl.enabled=true"]),
        ("benchmark_chat", ["benchmarks.source=hub"]),
        ("core_prompts", ["core.source=url"]),
    ],
)
def test_a_step_that_is_switched_off_names_what_turns_it_on(step, switches):
    done = _run("why", step, "tiny", "--set", "rl.enabled=false")
    assert done.exit_code == 2
    wanted = " ".join(f"--set {switch}" for switch in switches)
    assert done.stderr.splitlines() == [f"error: this run has no step {step}", f"hint: {wanted} turns it on"]
    check_step(step, plan_run(load_config("tiny", ["rl.enabled=false", *switches])))


@pytest.mark.parametrize(
    "verb", [["plan"], ["run"], ["why", "corpus"], ["node"], ["nightly", "--preset"]], ids=lambda verb: verb[0]
)
def test_depth_is_the_one_dial_of_every_verb_with_a_preset(verb):
    from flows.cli import app as every_verb

    done = CliRunner().invoke(every_verb, [*verb, "tiny", "--depth", "200"])
    assert done.exit_code == 2
    assert "depth = 200" in done.stderr


def test_a_plan_that_is_too_dear_ends_alike_for_a_run_and_a_sweep():
    from flows.cli import app as every_verb

    for verb in (["run", "d12"], ["miniseries", "d12", "--depths", "12"]):
        done = CliRunner().invoke(every_verb, [*verb, "--no-prefect", "--max-cost-usd", "0.01"])
        assert done.exit_code == 2, verb
        assert "0.01" in done.stderr.replace("1 cent", "0.01")


def test_a_shell_completes_the_names_of_settings_and_leaves_no_blank_behind_the_last():
    script = (
        'source <("$NANOCHAT" --show-completion bash); COMP_WORDS=(x run tiny --set sft.ep); COMP_CWORD=4\n'
        '_nanochat_completion "$NANOCHAT"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    variables = {**os.environ, "NANOCHAT": str(Path(sys.executable).with_name("nanochat"))}
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["sft.epochs=", "sft.epochs=1"], done.stderr
    assert complete_setting("tokeni") == [
        "tokenizer.vocab_size=",
        "tokenizer.pattern=",
        "tokenizer.max_train_bytes=",
        "tokenizer.max_doc_bytes=",
    ]
