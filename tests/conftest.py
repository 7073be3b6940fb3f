"""What every test may use: a small corpus, a small plan, homes of their own.

`slow` marks what starts a server or a training; `make test-fast` leaves those out.
"""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chat_items
import hypothesis
import pytest

# Two workers share two cores: the threads of tiny models would only wait for each other's. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from nanochat_core.base.log_budget import LogBudget
from nanochat_core.data import documentation
from nanochat_core.data.shards import write_shards
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config

pytest_plugins = ["s3_server", "planted_text"]
hypothesis.settings.register_profile("any machine", deadline=None)  # 0.2 s an example are no law where others compute
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start servers and trainings first: with two workers, a long one at the end would run alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
# A model that trains in seconds: same code, same features (windows need a context above 128 to differ).
MICRO = (
    "tokenizer.vocab_size=512",
    "pretrain.depth=2",
    "pretrain.n_embd=64",
    "pretrain.head_dim=32",
    "pretrain.n_kv_head=1",
    "pretrain.sequence_len_tokens=64",
    "pretrain.total_batch_tokens=512",
    "pretrain.max_tokens=15360",  # 30 steps
    "pretrain.warmup_steps=5",
    "pretrain.validate_every_steps=12",
    "pretrain.validation_tokens=2048",
    "sft.num_documentation=40",
    "sft.num_arithmetic=150",
    "sft.num_spelling=20",
    "sft.num_identity=10",
    "sft.total_batch_tokens=512",
    "sft.validate_every_steps=10",
    "rl.enabled=false",
    "evaluate.bpb_tokens=2048",
    "evaluate.num_questions=4",
    "evaluate.sample_tokens=8",
    "runtime.device_batch_rows=4",
    "runtime.num_threads=1",
)


# Checkpoints as often as they can be written, for trainings that are killed: they take longer than the steps.
OFTEN = "runtime.checkpoint_every_s=0"
# What MICRO leaves out: a practice of seconds, for tests that want the whole flow.
MICRO_RL = (
    "rl.enabled=true",
    "rl.num_steps=3",
    "rl.questions_per_step=2",
    "rl.samples_per_question=2",
    "rl.max_answer_tokens=8",
    "rl.validate_every_steps=none",
    "rl.held_out_questions=2",
    "rl.held_out_samples=2",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def chat_eval(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat benchmarks' published data where they are beside the repository, else ours, which are small."""
    folder = SHARED / "data/chat_eval"
    return folder if folder.is_dir() else chat_items.write(tmp_path_factory.mktemp("chat_eval"))


@pytest.fixture(scope="session")
def golden_d4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model that nanochat's golden numbers are of."""
    import nanochat_golden  # torch, which most tests do without

    return nanochat_golden.write_checkpoint(tmp_path_factory.mktemp("nanochat_d4"))


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parquet shards of real documentation, about 300 KB; the second is validation."""
    folder = tmp_path_factory.mktemp("corpus")
    modules = [entries for entries in documentation.package_entries("networkx") if entries][:60]
    texts = [f"{entry.signature}\n\n{entry.doc}" for entries in modules for entry in entries if len(entry.doc) > 60]
    write_shards(texts[40:], folder / "a")
    write_shards(texts[:40], folder / "b")
    shutil.move(folder / "a/00000.parquet", folder / "0.parquet")
    shutil.move(folder / "b/00000.parquet", folder / "1.parquet")
    return folder


@pytest.fixture
def micro_sets(small_corpus: Path) -> list[str]:
    """`--set` values of the small plan on the small corpus."""
    return [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"]


@pytest.fixture
def micro_plan(micro_sets: list[str]) -> RunPlan:
    return plan_run(load_config("tiny", micro_sets))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and store for this test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("NANOCHAT_HOME", str(folder))
    monkeypatch.setenv("NANOCHAT_STORE", str(folder / "store"))
    return folder


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three tiny models to serve; see model_server.py."""
    from model_server import make_home

    return make_home(tmp_path_factory.mktemp("model-home"))


@pytest.fixture
def other_users() -> None:
    """For tests that start this Python as another user: skipped where root's is in a folder that only root enters."""
    code = "import encodings, grp, json, socket, ssl"
    command = [os.path.realpath(sys.executable), "-I", "-c", code]
    try:
        user = {"user": 4242, "group": 4242, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(command, cwd="/", env={}, check=True, capture_output=True, **user)  # type: ignore[call-overload]
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip(f"other users cannot start {command[0]}")


@pytest.fixture(autouse=True, scope="module")
def _environment_kept() -> Iterator[None]:
    """Commands that a test calls in this process set variables for their children, which later files must not see."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_stray_log_budget() -> Iterator[None]:
    """A server that a test ran in this process gave the handlers of later tests a budget as well."""
    yield
    for handler in logging.getLogger().handlers:
        handler.filters = [each for each in handler.filters if not isinstance(each, LogBudget)]


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests must not see the developer's server, nor leave one configured."""
    names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    yield
    for name in names:
        os.environ.pop(name, None)
