"""Damage to the objects of a store: what a disk, a network or a hand can do to one of them."""

import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("flip", "truncate", "delete", "swap")


def objects(store: Path, *folders: str) -> list[Path]:
    """Files below these folders of a store."""
    return sorted(path for folder in folders for path in (store / folder).rglob("*") if path.is_file())


def damaged_content(kind: str, content: bytes, other: bytes, draw: random.Random) -> bytes | None:
    """What is there afterwards; None: nothing."""
    if kind == "delete":
        return None
    if kind == "swap":
        return other
    if kind == "truncate" or not content:
        return content[: draw.randrange(len(content))] if content else b"x"
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def write(path: Path, content: bytes | None) -> None:
    """Put something in the place of an object, also of a read-only one; None takes it away."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o444
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)


def damage(path: Path, kind: str, others: list[Path], draw: random.Random) -> Path | None:
    """Damage an object; with "swap" another one gets its bytes, and is returned."""
    content = path.read_bytes()
    choices = [other for other in others if other != path and other.read_bytes() != content]
    other = draw.choice(choices) if choices else None
    if kind == "swap" and other is not None:
        theirs = other.read_bytes()
        write(other, content)
        write(path, theirs)
        return other
    write(path, damaged_content("flip" if kind == "swap" else kind, content, b"", draw))
    return None


@contextmanager
def damaged(path: Path, kind: str, others: list[Path], draw: random.Random) -> Iterator[None]:
    """Damage an object inside the block; afterwards everything is as before."""
    kept = {each: (each.read_bytes(), stat.S_IMODE(each.stat().st_mode)) for each in [path, *others]}
    try:
        damage(path, kind, others, draw)
        yield
    finally:
        for each, (content, mode) in kept.items():
            if not each.exists() or each.read_bytes() != content:
                each.unlink(missing_ok=True)
                each.parent.mkdir(parents=True, exist_ok=True)
                each.write_bytes(content)
                each.chmod(mode)


def damage_view(view: Path, kind: str, draw: random.Random) -> None:
    """Damage one of a view's links: another file in its place, an empty one, none, or two that change places."""
    links = sorted(path for path in view.rglob("*") if path.is_symlink())
    link, other = links[0], links[-1]
    for folder in {link.parent, other.parent}:
        folder.chmod(0o755)  # views are read-only
    target, others = os.readlink(link), os.readlink(other)
    link.unlink()
    if kind == "flip":
        link.write_bytes(damaged_content("flip", Path(target).read_bytes(), b"", draw) or b"")
    elif kind == "truncate":
        link.write_bytes(b"")
    elif kind == "swap" and other != link:
        other.unlink()
        link.symlink_to(others)
        other.symlink_to(target)
