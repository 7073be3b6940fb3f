"""The walk of somebody who has never seen this project: the form, a run, its progress, a kill, a retry, the results.

Everything by the mouse, on the server that `nanochat up --local` starts. The tests go in order. Pictures are kept where
NANOCHAT_UI_SHOTS says; `make pictures` renews those of docs/team.md by it.
"""

import re

import pytest
from browser.conftest import Server
from browser.prefect_page import PrefectPage

pytestmark = [pytest.mark.torture, pytest.mark.slow, pytest.mark.timeout(3000)]
SMALL = (  # what the form's fields do not make small
    "tokenizer.vocab_size=512",
    "pretrain.validation_tokens=8192",
    "sft.num_documentation=40",
    "sft.num_arithmetic=300",
    "sft.num_spelling=20",
    "sft.num_identity=10",
    "rl.enabled=false",
    "evaluate.bpb_tokens=2048",
    "evaluate.num_questions=4",
    "evaluate.sample_tokens=8",
    "runtime.checkpoint_every_s=5",
)
TOO_FAST = tuple(f"pretrain.{name}_lr=50" for name in ("matrix", "embedding", "unembedding"))
ENDLESS = ("pretrain.tokens_per_param=1000000", "pretrain.max_tokens=1000000000")
NAME = "wider mlp, second try"


def fill_in(page: PrefectPage, server: Server, *overrides: str, max_tokens: int) -> None:
    page.open_form("speedrun")
    page.fill("Depth", 2)
    page.fill("Seed", 7)
    page.fill("Seed", "")  # somebody who changed their mind: an empty field is one that nobody touched
    page.fill("Tokens at most", max_tokens)
    page.choose("Text: from where", "path")
    page.fill("Text: path", server.folder / "corpus")
    page.add_items("overrides", (*SMALL, *overrides))


@pytest.fixture(scope="module")
def run(page: PrefectPage, server: Server) -> str:
    """The address of a run that was started by the form, killed in mid-training and retried; it has finished."""
    fill_in(page, server, max_tokens=600_000)
    page.page.get_by_text("Parameters", exact=True).first.scroll_into_view_if_needed()
    page.page.mouse.wheel(0, -5000)
    page.shot("ui-form")
    address = page.submit()
    page.until(lambda: re.search(r"speedrun-d2-\d{4}-\d\d-\d\d-[0-9a-f]{4}\b", page.text()) is not None)
    page.until_artifact(r"pretrain depth 2.*\d% done, [\d.a-z ]+ left")
    page.shot("ui-run")
    assert server.kill("prefect.engine") == 1
    page.until_state("Crashed", 180)
    page.retry()
    page.until_state("Completed", 900)
    return address


def test_a_killed_run_is_finished_by_the_retry_button_and_shows_what_was_cached(page: PrefectPage, run: str) -> None:
    page.page.goto(run)
    page.tab("Task Runs")
    page.until(lambda: "report · curves and tables" in page.text())
    # what was done before the kill is not done again; the page asks for the sums after it has the list
    page.until(lambda: re.search(r"\b[3-9] Cached", page.text()) is not None, 60)
    page.shot("ui-retry", full_page=True)
    seen = page.text()
    assert "Running" not in seen, "the training that was killed is not called Running for ever"
    assert re.search(r"pretrain · depth 2 · [\d.]+K tokens\s+Crashed", seen)


def test_the_results_begin_with_a_page_that_says_where_everything_is(page: PrefectPage, run: str) -> None:
    page.page.goto(run)
    page.open_artifact("speedrun-report", says="START HERE")
    page.shot("ui-summary", full_page=True)
    seen = page.text()
    for words in ("bits per byte", "Steps", "Held-out questions", "Quality checks", "Where things are", "TensorBoard"):
        assert words in seen
    page.page.goto(run)
    page.open_artifact("quality-checks", says="what every step was checked for")
    page.shot("ui-checks")
    assert "no validation text in training" in page.text()
    assert "FAILED" not in page.text()


def test_a_check_that_fails_ends_the_run_and_is_the_first_row_of_a_table(page: PrefectPage, server: Server) -> None:
    fill_in(page, server, *TOO_FAST, max_tokens=40_000)
    page.submit()
    page.until_state("Failed", 600)
    page.open_again()
    assert "sft" not in page.text(), "nothing follows"
    page.open_artifact("pretrain-checks", says="nothing was published")
    page.shot("ui-failed-check")
    assert re.search(r"FAILED\s+better than guessing", page.text())


def test_a_form_has_the_steps_to_choose_from_and_refuses_a_setting_that_there_is_not(
    page: PrefectPage, server: Server
) -> None:
    page.open_form("speedrun")
    page.choose("until", "pretrain")
    for label in ("fresh", "accept_drift"):
        page.offers(label, "evaluate_chat")
    page.add_items("overrides", ("pretrain.dpeth=4",))
    page.page.get_by_role("button", name="Submit").click()
    page.page.get_by_text("did you mean pretrain.depth?").last.wait_for()
    page.shot("ui-refused")
    assert "/run?" in page.page.url, "no run was made"


def test_a_run_that_waits_says_why_and_a_cancelled_step_says_what_it_has_kept(
    page: PrefectPage, server: Server
) -> None:
    page.switch_pool("cpu")
    page.open_form("speedrun")
    page.page.get_by_label("Run Name").fill(NAME)
    page.fill("Depth", 2)
    page.fill("Seed", 8)
    page.choose("Text: from where", "path")
    page.fill("Text: path", server.folder / "corpus")
    page.add_items("overrides", (*SMALL, *ENDLESS))
    page.choose("until", "pretrain")
    address = page.submit()
    page.until_log("waits: the pool cpu is paused: prefect work-pool resume cpu")
    page.shot("ui-wait")
    page.switch_pool("cpu")
    page.page.goto(address)
    page.until_state("Running", 180)
    page.until_artifact(r"pretrain depth 2.*\d% done, [\d.a-z ]+ left")
    assert NAME in page.text(), "the name that somebody typed stays"
    page.cancel()
    page.until_state("Cancelled", 120)
    page.until_artifact(r"stopped with the checkpoint of step [1-9]")
    page.tab("Task Runs")
    page.until(lambda: re.search(r"pretrain · depth 2 · [\d.A-Z]+ tokens\s+Cancelled", page.text()) is not None)
    page.shot("ui-cancelled")
    page.page.get_by_text(re.compile("^pretrain · depth 2")).first.click()
    page.until(lambda: re.search("stopped with the checkpoint of step [1-9]", page.text()) is not None, 30)
    page.page.goto(address)
    page.until_state("Cancelled", 60)
    page.retry()
    page.until_artifact(r"resumed at step [1-9]")
    page.shot("ui-resumed")
    page.cancel()
    page.until_state("Cancelled", 120)


def test_a_schedule_that_somebody_changed_on_the_page_stays_when_it_is_deployed_again(
    page: PrefectPage, server: Server
) -> None:
    server.nanochat("deploy", "nightly")
    page.open("v2/deployments")
    page.page.get_by_role("link", name="nightly", exact=True).first.click()
    page.edit_cron("15 5 * * *")
    page.shot("ui-schedule")
    said = server.nanochat("deploy", "nightly")
    assert "schedule nightly schedule" in said, said
    assert "15 5 * * *" in said
    page.page.reload()
    page.until(lambda: "05:15 AM" in page.text() or "15 5 * * *" in page.text())
