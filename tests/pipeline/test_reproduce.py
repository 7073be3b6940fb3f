"""A run made again elsewhere has equal digests; with any other ingredient it is refused and the ingredient named."""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import first_home
import pytest
from conftest import MICRO, ROOT

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import finish_run
from nanochat_core.pipeline.ingredients import Evidence, differences, evidence, machine_differences, toml_of
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gathered(prepared_module: Path, small_corpus: Path) -> Evidence:
    """What the store knows of a run up to the base model."""
    plan = plan_run(load_config("tiny", [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"]))
    finished = finish_run(plan, run_until(make, plan, "pretrain"), started_at=time.time())
    return evidence(workspace.current().store, finished.run_id)


def altered(gathered: Evidence, path: tuple[Any, ...], value: Any) -> Evidence:
    changed = copy.deepcopy(gathered)
    at: Any = changed
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return changed


def test_the_same_ingredients_are_not_refused_and_every_other_one_is_named(gathered: Evidence, tmp_path: Path) -> None:
    assert differences(gathered, tmp_path) == []
    names = [line["step"] for line in gathered["steps"]]
    pretrain = names.index("pretrain")
    last = gathered["steps"][pretrain]["provenance"]
    cases = {
        ("config", "seed"): (7, "config seed"),
        ("config", "pretrain", "matrix_lr"): (0.5, "config optim.matrix_lr"),
        ("config", "tokenizer", "max_doc_bytes"): (77, "config max_doc_bytes"),
        ("steps", pretrain, "code", "nanochat_core.train.loop"): ("0" * 64, "code nanochat_core.train.loop changed"),
        ("steps", pretrain, "packages", "torch"): ("1.0", "package torch: 1.0"),
        ("steps", pretrain, "provenance", "python"): ("2.7.18", "python: 2.7.18"),
        ("steps", pretrain, "provenance", "packages"): ({**last["packages"], "rustbpe": "0"}, "package rustbpe: 0"),
        ("steps", pretrain, "config", "total_batch_rows"): (3, "config total_batch_rows: 3"),
    }
    for path, (value, named) in cases.items():
        found = differences(altered(gathered, path, value), tmp_path)
        assert any(named in line for line in found), (path, found)


def test_another_machine_is_said_and_not_refused(gathered: Evidence, tmp_path: Path) -> None:
    assert machine_differences(gathered) == []
    elsewhere = altered(gathered, ("steps", 0, "provenance", "cpu"), "Pentium 60")
    [said] = machine_differences(elsewhere)
    assert said.startswith("cpu: Pentium 60 -> ")
    assert differences(elsewhere, tmp_path) == []


def test_a_data_file_that_changed_is_named(gathered: Evidence, small_corpus: Path, tmp_path: Path) -> None:
    file = small_corpus / "0.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    try:
        assert any(line.startswith("corpus: config files") for line in differences(gathered, tmp_path))
    finally:
        file.write_bytes(content)


def test_settings_survive_the_way_through_a_preset_file(micro_sets: list[str], tmp_path: Path) -> None:
    sets = [*micro_sets, "pretrain.validate_every_steps=none", 'sft.path="a \\"quoted\\" ü.jsonl"']
    config = load_config("tiny", sets)
    import dataclasses

    text, options = toml_of(dataclasses.asdict(config))
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    assert load_config(str(tmp_path / "tiny.toml"), options) == config


def nanochat(checkout: Path, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "PYTHONPATH": str(checkout)}
    environment.pop("NANOCHAT_STORE", None)
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone with an uncommitted change in the trainer."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    loop = tmp_path / "clone/nanochat_core/train/loop.py"
    changed = loop.read_text().replace("LOSS_AVERAGE = 0.9 ", "LOSS_AVERAGE = 0.8 ")
    assert changed != loop.read_text()
    loop.write_text(changed)
    return tmp_path / "clone"


def test_a_run_made_again_has_equal_digests_and_another_patch_is_refused(
    checkout: Path, small_corpus: Path, tmp_path: Path
) -> None:
    sets = [*MICRO, "pretrain.max_tokens=5120", "corpus.source=path", f"corpus.path={small_corpus}"]  # 10 steps
    options = [part for value in sets for part in ("--set", value)]
    first_home.seed_digests(tmp_path / "home")
    made = nanochat(checkout, tmp_path / "home", "run", "tiny", *options, "--no-prefect", "--until", "pretrain")
    assert made.returncode == 0, made.stderr
    asked = nanochat(
        checkout, tmp_path / "home", "reproduce", "latest", "--folder", str(tmp_path / "again"),
        "--python", sys.executable,
    )  # fmt: skip
    assert asked.returncode == 2
    assert "+LOSS_AVERAGE = 0.8" in asked.stderr  # the patch
    assert "run corpus, tokenizer, tokens, pretrain with its settings" in asked.stderr
    assert "here is no terminal to ask at" in asked.stderr
    assert not (tmp_path / "again").exists()
    again = nanochat(
        checkout, tmp_path / "home", "reproduce", "latest", "--folder", str(tmp_path / "again"),
        "--python", sys.executable, "--json", "--yes",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    compared = {one["step"]: one for one in json.loads(again.stdout)["steps"]}
    assert list(compared) == ["corpus", "tokenizer", "tokens", "pretrain"]
    assert all(one["recorded"] == one["reproduced"] for one in compared.values())
    assert "LOSS_AVERAGE = 0.8" in (tmp_path / "again/checkout/nanochat_core/train/loop.py").read_text()

    forget_patch(tmp_path / "home")
    refused = nanochat(
        checkout, tmp_path / "home", "reproduce", "latest", "--folder", str(tmp_path / "third"),
        "--python", sys.executable, "--yes",
    )  # fmt: skip
    assert refused.returncode == 1
    assert "git_patch" in refused.stderr


def forget_patch(home: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(home))
        patch.setenv("NANOCHAT_STORE", str(home / "store"))
        store = workspace.current().store
        [run_id] = store.runs()
        record = store.run(run_id)
        store.put_run(run_id, {**record, "source": {**record["source"], "git_patch": "another patch\n"}})
