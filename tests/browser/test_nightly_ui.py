"""The walk of a team whose nights watch over a repository: a schedule, a red night, its hint pasted, what got better.

By the mouse and the clipboard, on the server that `nanochat up --local` starts: what a page does not say, or what a
pasted line does not do, is what the test is to find. Pictures are kept where NANOCHAT_UI_SHOTS says.
"""

import json
import re
import shlex

import pytest
import yaml
from browser.conftest import Server
from browser.prefect_page import PrefectPage
from conftest import MICRO
from own_repository import DEPLOYED, Repository

pytestmark = [pytest.mark.torture, pytest.mark.slow, pytest.mark.timeout(3000)]
SHORT = ("pretrain.max_tokens=8192", "pretrain.validate_every_steps=none", "evaluate.bpb_tokens=2048")
STEP = ("nanochat_core/optim/adamw.py", "lr=lr,", "lr=lr / 8,")
FLOW_RUN = re.compile(r"nightly-d2-\d{4}-\d\d-\d\d-[0-9a-f]{4}")


class Nights:
    """The deployment `nightly` of a team's own repository, by its page."""

    def __init__(self, server: Server, page: PrefectPage, repository: Repository) -> None:
        self.server, self.page, self.repository = server, page, repository
        self.seen: set[str] = set()

    def open(self) -> None:
        self.page.open("v2/deployments")
        self.page.page.get_by_role("link", name="nightly", exact=True).first.click()
        self.page.page.get_by_text("Schedules").first.wait_for()

    def wait(self, state: str, heading: str) -> str:
        """Let the schedule start a night, wait for its end, stop the schedule; returns its verdict as the page has it.

        A second night may have begun meanwhile: it is let end, for the next one would be no newer.
        """
        self.open()
        self.page.switch_schedule()
        self.page.until(self._has_begun, 240)
        self.page.switch_schedule()
        self.page.page.get_by_text(self._new()[0], exact=True).first.click()
        self.page.page.wait_for_url("**/runs/flow-run/**")
        self.seen.add(FLOW_RUN.findall(self.page.text())[0])
        self.page.until_state(state, 600)
        self.page.open_again()
        self.page.open_artifact("nightly-verdict", says="the verdict")
        return self._drawn(heading)

    def _drawn(self, heading: str) -> str:
        """The verdict's page from its heading to its last line: it is drawn piece by piece."""
        seen = list[str]()

        def is_whole() -> bool:
            seen.append(self.page.text())
            return heading in seen[-1] and re.search(r"Baseline: .*\d+ runs", seen[-1]) is not None

        self.page.until(is_whole, 60)
        return seen[-1]

    def _new(self) -> list[str]:
        return [name for name in FLOW_RUN.findall(self.page.text()) if name not in self.seen]

    def _has_begun(self) -> bool:
        self.page.page.reload()
        self.page.page.wait_for_timeout(3000)
        return bool(self._new()) and "Running" in self.page.text()

    def paste(self, line: str) -> str:
        """Type what the page said into a shell that stands in the repository."""
        words = shlex.split(line)
        assert words[0] == "nanochat"
        return self.server.nanochat(*words[1:], cwd=self.repository.folder)


@pytest.fixture(scope="module")
def nights(server: Server, page: PrefectPage, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """With tiny nights in prefect.yaml, three trainings each, and a schedule for every minute."""
    folder = server.folder / "team"
    repository = Repository(folder, DEPLOYED)
    path = folder / "prefect.yaml"
    described = yaml.safe_load(path.read_text())
    (nightly,) = (one for one in described["deployments"] if one["name"] == "nightly")
    overrides = [*MICRO, *SHORT, "corpus.source=path", f"corpus.path={server.folder / 'corpus'}"]
    nightly["parameters"] = {"preset": "tiny", "overrides": overrides, "seeds": 3, "placement": "inline"}
    path.write_text(yaml.safe_dump(described))
    repository.git("commit", "-qam", "Nights of the tiny preset")
    server.nanochat("deploy", "nightly", cwd=folder)
    made = Nights(server, page, repository)
    made.open()
    page.edit_cron("* * * * *")
    return made


def test_nights_come_by_the_schedule_and_say_how_a_baseline_is_made(nights: Nights) -> None:
    verdict = nights.wait("Completed", "NOT JUDGED")
    assert "there is no baseline yet" in verdict
    nights.page.shot("night-unjudged", full_page=True)
    (command,) = set(re.findall("nanochat nightly promote", verdict))
    assert "3 runs" in nights.paste(command)


def test_a_red_night_says_what_to_type_and_that_finds_the_commit(nights: Nights) -> None:
    nights.repository.commit("Say why", "nanochat_core/optim/muon.py", "@torch.no_grad()\ndef muon_step",
                             "# why, at length\n@torch.no_grad()\ndef muon_step")  # fmt: skip
    planted = nights.repository.commit("Simplify", *STEP)
    verdict = nights.wait("Failed", "RED")
    nights.page.shot("night-red", full_page=True)
    (command,) = set(re.findall(r"nanochat nightly bisect .*", verdict))
    said = nights.paste(command)
    assert f"first bad commit: {planted}" in said
    nights.page.page.go_back()
    nights.page.shot("night-red-run")


def test_what_got_better_for_good_is_named_and_may_be_promoted(nights: Nights) -> None:
    history = json.loads(nights.server.nanochat("nightly", "history", "--json"))
    (red,) = (night["run_id"] for night in history if night["state"] == "red")
    nights.paste(f"nanochat nightly promote --night {red} --same-recipe")
    nights.repository.git("revert", "--no-edit", "HEAD")
    for _ in range(5):
        verdict = nights.wait("Completed", "GREEN")
        if "promote" in verdict:
            break
    nights.page.shot("night-better", full_page=True)
    assert "better" in verdict
    (command,) = set(re.findall("nanochat nightly promote", verdict))
    assert "nightly-baseline@" in nights.paste(command)
