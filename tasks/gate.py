"""What people see of a night in Prefect: verdict, table, the picture of the history; an event when the level changed.

An automation that waits for the event `nanochat.regression` sends the verdict on (docs/nightly.md); a level that became
better is the event `nanochat.improvement`. The event is on its way before the run fails: a process that ends at once
would lose it.
"""

from typing import Any

from prefect.events import emit_event
from prefect.events.worker import EventsWorker

from nanochat_core.base.redaction import redact_value
from nanochat_core.gate.finish import FinishedNight
from tasks.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

EVENT, BETTER = "nanochat.regression", "nanochat.improvement"
DRAIN_S = 10
COLUMNS = ("label", "value", "location", "scale", "effect_frac", "effect_sd", "state")


def publish_night(finished: FinishedNight) -> FinishedNight:
    """Attach the verdict to the current flow run, as the newest and so the first; tell of a regression."""
    about = f"nightly {finished.record['preset']} ({finished.run_id})"
    if rows := finished.record["verdict"]["rows"]:
        table = [{name: row[name] for name in COLUMNS} for row in rows]
        create_table_artifact(table=table, key="nightly-metrics", description=f"{about}: against the baseline")
    if finished.plot is not None:
        link, text = finished.plot.as_uri(), str(finished.plot)
        create_link_artifact(link=link, link_text=text, key="nightly-history", description=f"{about}: the history")
    create_markdown_artifact(markdown=finished.markdown, key="nightly-verdict", description=f"{about}: the verdict")
    if finished.is_red or finished.record["verdict"].get("is_improved"):
        event = EVENT if finished.is_red else BETTER
        emit_event(event, resource=_resource(finished), payload=redact_value(_payload(finished)))
        EventsWorker.drain_all(timeout=DRAIN_S, at_exit=False)
    return finished


def _resource(finished: FinishedNight) -> dict[str, str]:
    preset = str(finished.record["preset"])
    return {"prefect.resource.id": f"nanochat.nightly.{preset}", "prefect.resource.name": f"nightly {preset}"}


def _payload(finished: FinishedNight) -> dict[str, Any]:
    verdict, source = finished.record["verdict"], finished.record["source"]
    names = ("summary", "decided_by", "since", "effect_sd", "likely_sd", "effect_frac", "p_value", "num_looks")
    return {
        "night": finished.run_id,
        "commit": source.get("git_commit"),
        "markdown": finished.markdown,
        **{name: verdict[name] for name in names},
    }
