"""Secrets by their shape: each is seen and taken out, what is none stays, and the time is linear."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planted import ORDINARY, PLANTED, WORD

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.redaction import redact, redact_value, redacted_error, refuse, shapes_in

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("shape", PLANTED)
@pytest.mark.parametrize(
    "around", ["{}", "see {} there", '{{"url": "{}"}}', "+    address = '{}'\n", "x={}\nnext line"]
)
def test_a_secret_is_seen_and_taken_out_wherever_it_stands(shape: str, around: str) -> None:
    text = around.format(PLANTED[shape])
    clean = redact(text)
    assert not [word for word in WORD.findall(clean) if word in PLANTED[shape]]
    assert shapes_in(text)
    assert redact(clean) == clean
    assert shapes_in(clean) == []
    assert clean.count("\n") == text.count("\n")  # a patch keeps its lines


@pytest.mark.parametrize("text", ORDINARY)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text
    assert shapes_in(text) == []


def test_this_repository_has_no_secret_by_the_table() -> None:
    """Code and documents speak of passwords on every page: the measure of what is taken out by mistake."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    names = [name for name in listed.split("\0") if name.endswith((".py", ".md", ".toml", ".yaml", ".lock", ".sh"))]
    seen = [name for name in names if not name.startswith("tests/") and shapes_in((ROOT / name).read_text("utf-8"))]
    assert seen == []


def test_the_value_of_a_secret_variable_is_taken_out_without_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "only words here")
    monkeypatch.setenv("EDITOR_KEY", "/usr/share/keys")
    assert redact("the server said: only words here /usr/share/keys") == "the server said: *** /usr/share/keys"
    assert shapes_in("only words here") == ["the value of SOME_SERVICE_TOKEN"]


def test_a_value_is_clean_at_every_depth_and_under_its_telling_names() -> None:
    value = {"a": [{"b": "https://me:pw@host/x"}], "db_password": "hunter", "n": 1, "none": None, "key": "corpus"}
    assert redact_value(value) == {
        "a": [{"b": "https://***@host/x"}], "db_password": "***", "n": 1, "none": None, "key": "corpus"
    }  # fmt: skip


def test_a_refusal_names_place_and_kind_and_never_the_value() -> None:
    with pytest.raises(ConfigError) as error:
        refuse({"env": {"X": ["fine", "hf_" + "a1" * 17]}}, "pools", hint="elsewhere")
    assert error.value.message.startswith("pools.env.X[1] holds a hub token")
    assert "a1a1" not in f"{error.value.message}{error.value.hint}"


def test_errors_for_people_come_without_secrets() -> None:
    error = MissingError("https://me:hunter2@host is gone", hint="ask hf_" + "b2" * 17)
    assert "hunter2" not in f"{error}{error.message}{error!r}"
    assert error.hint == "ask ***"


def test_an_error_of_a_library_is_told_without_its_secret_and_is_retried_as_before() -> None:
    try:
        try:
            raise ConnectionError("Max retries for https://me:hunter2@host/x")
        except ConnectionError as error:
            raise OSError("no luck") from error
    except OSError as error:
        told = redacted_error(error)
    assert isinstance(told, OSError)
    assert "hunter2" not in f"{told!r}{told.__cause__!r}{told.__context__!r}"
    plain = ValueError("as it was")
    assert redacted_error(plain) is plain


LOGS = """
import logging
from nanochat_core.base import redaction
redaction.install(); redaction.install()
logging.basicConfig(level=logging.INFO)
log = logging.getLogger("somebody")
log.info("to %s in %d s", "https://me:hunter2@host", 3)
log.info("%(where)s", {"where": "password=hunter2"})
try:
    raise ValueError("password=hunter2")
except ValueError:
    log.exception("it broke")
raise RuntimeError("Authorization: Bearer hunter2")
"""


def test_logs_and_tracebacks_of_a_process_come_without_secrets() -> None:
    done = subprocess.run([sys.executable, "-c", LOGS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "hunter2" not in done.stderr
    assert "to https://***@host in 3 s" in done.stderr
    assert "ValueError: password=***" in done.stderr
    assert "RuntimeError: Authorization: ***" in done.stderr


def test_a_record_that_nothing_is_taken_out_of_is_left_as_it_is() -> None:
    record = logging.getLogRecordFactory()("n", logging.INFO, "f", 1, "%s and %s", ("a", "b"), None)
    assert record.args == ("a", "b")


@pytest.mark.parametrize(
    "unit",
    [
        "a", "://", "://a:", "://a:b@", "?token=", "&key=a", "password", "password=", 'key="',
        "%3A%2F%2Fa%3A", "eyJa", "hf_", "sk-", "A_", "x-api-key: ", "Bearer ", "://a/hooks/", "0",
        "-----BEGIN PRIVATE KEY-----", "AKIA0000000000000000 ",
        "--", "--a-", "--token ", "-u a:", "<a", "<password ", "'a", "'password',", "name: A_TOKEN ", "token ",
        "passphrase: ", "passphrase: a b ", "a ", "$6$", "$1", "://a/token/", "://#", "%26a", "%26token%3D",
        "Private-Lines: 1\n", "pat", "0a", "Mab1", "v1.",
    ],
)  # fmt: skip
def test_the_time_is_linear_in_the_text(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        began = time.process_time()
        redact(text)
        return time.process_time() - began

    small = max(min(seconds(10_000) for _ in range(2)), 1e-3)
    assert seconds(40_000) / small < 16


def test_json_in_json_and_escapes_hide_nothing() -> None:
    inner = json.dumps({"password": "hunter2", "url": "https://u:hunter2@h/", "t": "line\nhf_" + "c3" * 17})
    assert "hunter2" not in redact(json.dumps({"told": inner}))
