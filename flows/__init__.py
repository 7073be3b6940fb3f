"""The DAGs: which step feeds which. Nothing here knows how a step is done."""
