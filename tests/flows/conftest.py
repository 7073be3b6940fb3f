"""One Prefect server per test process for the files that need a team: server, deployments, workers of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_team import Team, shorten_silence, team_in


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> Iterator[Team]:
    """A server with everything of `nanochat deploy --all`."""
    with team_in(tmp_path_factory.mktemp("team"), small_corpus) as team:
        team.deploy()
        shorten_silence(team, 20)
        yield team


@pytest.fixture(scope="module")
def team(deployed: Team) -> Iterator[Team]:
    """That server, without workers of the files before; its store keeps what they made."""
    yield deployed
    deployed.stop()
