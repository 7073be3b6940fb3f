"""`nanochat export` takes a model away; `nanochat import-tokenizer` brings somebody else's vocabulary in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.units import size
from nanochat_core.cli.output import Json, answer

if TYPE_CHECKING:
    from nanochat_core.tokenizer.tokenizer import Tokenizer

FORMS, DTYPES = ("safetensors", "hf"), ("float32", "bfloat16")
SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def export(
    ref: Annotated[str, typer.Argument(help="A model: NAME or NAME@VERSION.")],
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[str, typer.Option("--to", help="safetensors (our own form) or hf (transformers loads it).")],
    dtype: Annotated[str, typer.Option(help="Of the weights: float32 or bfloat16 (half the size).")] = "float32",
    as_json: Json = False,
) -> None:
    """Write a model, its tokenizer and a card with its numbers into a folder for other programs.

    nanochat export tiny-chat --to hf my-model/

    nanochat export gpt2-chat --to safetensors my-model/ --dtype bfloat16 --json
    """
    from nanochat_core.export.folder import export_model

    dtype = SHORT_DTYPES.get(dtype, dtype)
    if to not in FORMS:
        raise ConfigError(f"--to {to!r} is no form of ours", hint=f"--to {' or --to '.join(FORMS)}")
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype!r} is not supported", hint=f"--dtype {' or --dtype '.join(DTYPES)}")
    store = workspace.current().store
    done = export_model(store, ref, folder, form=to, dtype=dtype)  # type: ignore[arg-type]

    def show() -> None:
        for file in done.files:
            print(f"{file.sha256}  {file.name}  {size(file.num_bytes)}")
        print(f"{done.ref} ({done.step} {done.fingerprint[:12]}) as {to}, {dtype}, in {folder}")

    answer(done, show, as_json=as_json)


def import_tokenizer(
    folder: Annotated[Path, typer.Argument(help="Folder with nanochat's tokenizer.pkl, or an exported model.")],
    out: Annotated[Path, typer.Argument(help="Folder that gets our tokenizer.json.")],
) -> None:
    """Read a tokenizer: nanochat's pickle, without running anything in it, or that of an exported folder.

    nanochat import-tokenizer ~/.cache/nanochat/tokenizer model/

    nanochat import-tokenizer my-model/ model/
    """
    tokenizer = read_tokenizer(folder)
    if (out / "tokenizer.json").exists():
        raise ConfigError(f"{out / 'tokenizer.json'} is already there", hint="name another folder, or remove it first")
    tokenizer.save(out)
    print(f"{out}: {tokenizer.vocab_size:,} tokens")


def read_tokenizer(folder: Path) -> "Tokenizer":
    """The tokenizer of a folder in any form that we can read."""
    from nanochat_core.export.peer_tokenizer import PICKLE, load_peer_tokenizer
    from nanochat_core.export.tokenizer_json import tokenizer_from_json
    from nanochat_core.tokenizer.tokenizer import FILE_NAME, FORMAT, Tokenizer

    path = folder / FILE_NAME
    if path.is_file():
        is_ours = f'"{FORMAT}"' in path.read_text(encoding="utf-8", errors="replace")[:200]
        return Tokenizer.load(folder) if is_ours else tokenizer_from_json(path)
    if (folder / PICKLE).is_file():
        return load_peer_tokenizer(folder)
    raise MissingError(f"{folder} holds neither {FILE_NAME} nor {PICKLE}", hint="point at a tokenizer's folder")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("export")(export)
    app.command("import-tokenizer")(import_tokenizer)
