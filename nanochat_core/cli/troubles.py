"""Which section of docs/troubleshooting.md tells more of an error than its hint has room for.

By words of the error's message or hint. A table here and not a link in each hint: the hints of what a step calls are in
its cache key, and a changed word would train again.
"""

from nanochat_core.base.errors import NanochatError

PAGE = "docs/troubleshooting.md"
SECTIONS: dict[str, tuple[str, ...]] = {
    "too-little-text": (
        "does not fill one row",
        "training and ",
        " merges of the ",
        "are longer than a row and lose their end",
    ),
    "a-file-is-not-read": (
        "is not UTF-8",
        "cannot be read as parquet",
        "has no field ",
        "has no column ",
        "holds nothing to read",
    ),
    "conversations-teach-nothing": (
        "has an answer to learn from",
        "cannot be learnt from and held out",
        "has a target: there is no answer",
        "a speaker that is not known",
    ),
    "a-dataset-does-not-come": ("could not be fetched", "cannot be listed"),
    "a-batch-does-not-divide": ("does not divide over", "does not divide into rows"),
    "the-gpu-is-not-used": (
        "sees no CUDA GPU",
        "has no GPU: torch sees",
        "want a GPU each, and this machine shows",
    ),
    "too-little-memory": (
        "keeps the batch and needs less memory",
        "not even one row fits",
        "the GPU's memory is too small",
        "has no memory left",
        "no memory is left",
        "ended by the system, most often for lack of memory",
    ),
    "a-disk-or-a-limit": (
        "the disk is full",
        "disk quota is used up",
        "too many open files",
        "may be started",
        "no permission",
    ),
    "a-loss-that-is-no-number": ("lower the learning rates", "are NaN or infinite", "are not finite"),
    "no-sign-of-life": ("no sign of life for",),
    "checkpoints-cannot-be-read": ("none of the checkpoints", "was computed in"),
    "somebody-else-works-on-it": ("is held by", "the lease ", "is being written by another process"),
    "the-plan-is-too-dear": ("the plan costs about", " are spent ("),
    "a-damaged-artifact": (
        "should have sha256",
        "was altered: its seal is",
        "was damaged, and making it again",
        "is damaged again",
    ),
    "drift-is-not-accepted": ("cannot hold: ",),
    "the-server-of-a-run-ends": ("the embedded Prefect server",),
    "prefects-database-is-refused": ("of a newer version of Prefect", "is locked by another process"),
    "a-prefect-server-is-not-reached": (
        "that is no Prefect server",
        "wants a key (",
        "is a server of Prefect",
        "does not speak TLS",
    ),
    "a-port-is-taken": (" is in use", "is taken by another program", "cannot be listened on"),
    "the-bucket-is-refused": (
        "refuses the key",
        "there is no key for",
        "the session token has expired",
        "does not take this SDK's checksums",
        "did not answer while",
    ),
    "two-pools-differ": ("this worker would make", "does not fit this worker's code", "vanished"),
    "programs-are-not-run": ("generated code cannot be shut in here",),
}


def section_of(error: NanochatError) -> str | None:
    """Where to read on, as docs/troubleshooting.md#section; None where the hint is all there is to say."""
    said = f"{error.message}\n{error.hint or ''}"
    found = next((name for name, words in SECTIONS.items() if any(each in said for each in words)), None)
    return f"{PAGE}#{found}" if found else None
