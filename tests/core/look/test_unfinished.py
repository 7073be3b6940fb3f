"""A training that was killed is looked at by its own log and plan."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from planted_text import SETS, write_corpus

from nanochat_core.base.errors import MissingError
from nanochat_core.look.unfinished import attempts, open_unfinished
from nanochat_core.look.view import DataView
from nanochat_core.store.store import Store

START = """import sys
from nanochat_core.pipeline.execute import make
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps.corpus import corpus
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.tokenizer import tokenizer
from nanochat_core.steps.tokens import tokens
plan = plan_run(load_config("tiny", sys.argv[1:]))
text = make(corpus, plan)
words = make(tokenizer, plan, text, None)
make(pretrain, plan, words, make(tokens, plan, text, words), None)
"""


def test_without_a_training_there_is_nothing_unfinished(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), cache_folder=tmp_path / "cache")
    with pytest.raises(MissingError, match="is unfinished"):
        open_unfinished(store, tmp_path)


@pytest.mark.torture
def test_a_killed_training_leads_from_its_steps_to_the_documents(tmp_path: Path) -> None:
    home, text = tmp_path / "home", tmp_path / "text"
    write_corpus(text)
    sets = [*SETS, "corpus.source=path", f"corpus.path={text}", "pretrain.max_tokens=2560000"]
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "NANOCHAT_STORE": str(home / "store")}
    driver = subprocess.Popen([sys.executable, "-c", START, *sets], env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and driver.poll() is None:
            logs = [attempt / "metrics.jsonl" for attempt in attempts(home)]
            if logs and logs[-1].is_file() and logs[-1].read_text().count('"loss"') > 40:
                break
            time.sleep(0.2)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    store = Store.open(str(home / "store"), cache_folder=home / "cache")
    view = DataView(open_unfinished(store, home))
    found = view.step("pretrain", 30)
    assert found["measure"] == "token frequencies"
    assert found["loss"] == dict(view.curves["pretrain"])[30]
    for each in found["documents"]:
        line = (text / each["file"]).read_text().splitlines()[each["line"] - 1]
        assert json.loads(line)["text"].startswith(each["text"])
    assert view.curve("pretrain")["spikes"]
    shutil.rmtree(home)
