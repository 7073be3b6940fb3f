"""A worker of another release is told so, and gets no work: it would do a new server's runs with old code.

Our workers say their release with each request of their client; the guard looks at it where work is asked for. Releases
before 0.3 say nothing, and cannot be told apart from a worker of Prefect's own: they are served.
"""

import json
import re
from collections.abc import Mapping

from nanochat_core import __version__

HEADER = "X-Nanochat-Release"
ASKS_FOR_WORK = re.compile(r"/api/work_pools/[^/]+/get_scheduled_flow_runs/?")


def refusal(path: str, said: str | None) -> str | None:
    """Why a worker gets no work from this server; None where it does, or where it does not say what it is."""
    if said is None or said == __version__ or not ASKS_FOR_WORK.fullmatch(path):
        return None
    return f"this worker is of nanochat {said[:40]} and the server of {__version__}: install that, and start it again"


def saying_release(environment: Mapping[str, str]) -> dict[str, str]:
    """For a worker's process: what its client says with each request."""
    name = "PREFECT_CLIENT_CUSTOM_HEADERS"
    given = json.loads(environment.get(name) or "{}")
    return {name: json.dumps({**given, HEADER: __version__})}
