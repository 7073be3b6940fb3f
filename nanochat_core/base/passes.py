"""How many rows go through a device at once where memory is no limit: the plan says it, a training does it."""

TOKENS = 8192  # larger passes are no faster on a processor (benchmarks/RESULTS.md)


def usual_rows(sequence_len: int) -> int:
    """Rows of a forward and backward pass where nothing is measured."""
    return max(1, TOKENS // sequence_len)
