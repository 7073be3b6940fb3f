"""The conversations of files as the fine-tuning mix reads them (pipeline/mixture.py), before it leaves any out."""

from nanochat_core.data.conversations import conversation_of_row, select
from nanochat_core.data.rows import FileRows, Mapped


def read_conversations(path: str | None) -> Mapped:
    """Those of a file, a folder or a pattern, each read and checked when it is indexed."""
    return Mapped(FileRows(select(path).files), conversation_of_row)
