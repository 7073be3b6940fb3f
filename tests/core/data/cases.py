"""What the programs share that read files which people bring: the cases, and what a case comes to."""

import pytest

RIGHT, REFUSED, UNCLEAR, WRONG = "right", "refused clearly", "refused without the reason", "read wrong"


def cases(shared, kind):
    """The folders of the cases of one kind."""
    folder = shared / "datacases" / kind
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return [case for case in sorted(folder.iterdir()) if (case / "expected.json").is_file()]


def is_said(must_match, lines, case):
    """Whether one of each list of words is in the lines, without the case's own path."""
    said = " ".join(lines).replace(str(case), "").casefold()
    return all(any(word.casefold() in said for word in ways) for ways in must_match)


def refusal(expected, said, case):
    """What it comes to that a case is refused with these words."""
    ends = [end for end in (expected, *expected["also_acceptable"]) if end["verdict"] == "refused"]
    is_clear = any(is_said(end["must_match"], said, case) for end in ends)
    return (RIGHT if is_clear and expected in ends else REFUSED) if is_clear else UNCLEAR
