"""From the event of a red night to a webhook: a notification block and an automation on the Prefect server.

The address is a secret of many chat services, so it is a secret value of a block of the server, which its page does not
show, and in no file. Slack, Teams and the
like have blocks of their own; whoever prefers one points the automation at it in the UI, and it stays so.
"""

from typing import Any

from flows.automations import register_automation
from flows.deploy import server_client
from flows.written import Written
from tasks.gate import EVENT

BLOCK = "nanochat-regression"
AUTOMATION = "nanochat-regression"


def register_webhook(url: str) -> str:
    """Register the block with this address and the automation; says what was done."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    block = CustomWebhookNotificationBlock(
        name="nanochat",
        url="{{address}}",
        method="POST",
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
        secrets={"address": url},
    )
    with server_client() as client:
        identity = block.save(BLOCK, overwrite=True, client=None)
        written = Written(client)
        decision = register_automation(client, written, automation(str(identity)))
        written.save()
        return written.told(decision)


def automation(block_id: str) -> dict[str, Any]:
    """What the server is to do on a regression."""
    return {
        "name": AUTOMATION,
        "description": "A red night sends its verdict (docs/nightly.md).",
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "expect": [EVENT],
            "match": {"prefect.resource.id": "nanochat.nightly.*"},
            "for_each": [],
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {
                "type": "send-notification",
                "block_document_id": block_id,
                "subject": "regression: {{ event.payload.night }}",
                "body": "{{ event.payload.markdown }}",
            }
        ],
    }
