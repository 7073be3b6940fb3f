"""`nanochat export` takes a model away; `import-checkpoint`, `import-tokenizer` bring somebody else's in."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.units import size
from nanochat_core.cli.output import Json, answer

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


def import_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Folder with a model of nanochat's or transformers'.")],
    out: Annotated[Path, typer.Argument(help="New folder for the model in our form.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of its tokenizer, where it is another one.")] = None,
    softcap: Annotated[float | None, typer.Option(help="What its logits are capped at; found out by default.")] = None,
) -> None:
    """Read a nanochat checkpoint of any generation by its own parameter names and write it as ours.

    nanochat import-checkpoint d20/ model/

    nanochat import-checkpoint ~/.cache/nanochat/base_checkpoints/d12 model/ --tokenizer ~/.cache/nanochat/tokenizer
    """
    from nanochat_core.export.adopt import adopt
    from nanochat_core.model.weights import save_model

    found = adopt(folder, tokenizer_folder=tokenizer, softcap=softcap)
    for note in found.notes:
        print(note, file=sys.stderr)
    model = found.model
    save_model(out, model)
    if found.tokenizer is not None and not (out / "tokenizer.json").exists():
        found.tokenizer.save(out)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {num_params:,} parameters, depth {found.config.n_layer}")


def import_tokenizer(
    folder: Annotated[
        Path, typer.Argument(help="Folder with nanochat's tokenizer.pkl, or a tokenizer.json of Hugging Face's.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder that gets our tokenizer.json.")],
) -> None:
    """Read a tokenizer: nanochat's pickle, without running anything in it, or a tokenizer.json of byte-level BPE.

    nanochat import-tokenizer ~/.cache/nanochat/tokenizer model/

    nanochat import-tokenizer my-model/ model/
    """
    from nanochat_core.export.adopt import read_tokenizer

    tokenizer = read_tokenizer(folder)
    if (out / "tokenizer.json").exists():
        raise ConfigError(f"{out / 'tokenizer.json'} is already there", hint="name another folder, or remove it first")
    tokenizer.save(out)
    print(f"{out}: {tokenizer.vocab_size:,} tokens")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("export")(export)
    app.command("import-checkpoint")(import_checkpoint)
    app.command("import-tokenizer")(import_tokenizer)
