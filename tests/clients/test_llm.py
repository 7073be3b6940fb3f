"""Simon Willison's `llm`: its list of our models, and an answer that is streamed."""

import pytest
from click.testing import CliRunner
from llm.cli import cli
from model_server import SCRIPT_TEXT

pytestmark = pytest.mark.slow


@pytest.fixture
def llm(url):
    """What `llm openai endpoint URL ...` prints."""

    def run(*arguments):
        done = CliRunner().invoke(cli, ["openai", "endpoint", f"{url}/v1", *arguments], input="")
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_it_lists_our_models_and_streams_an_answer(llm):
    assert {"tiny-chat", "tiny-base", "scripted-chat"} <= set(llm("--models").split())
    greedy = ("-o", "temperature", "0")
    assert llm("-m", "scripted-chat", *greedy, "hi").strip() == SCRIPT_TEXT
    assert llm("-m", "scripted-chat", *greedy, "--no-stream", "hi").strip() == SCRIPT_TEXT
