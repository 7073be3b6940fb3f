"""`nanochat bench`: how fast this machine decodes, trains, reads batches and encodes text.

The benches stand beside the packages in a clone, in benchmarks/, and are no part of what a wheel installs.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import typer

from nanochat_core.base.errors import MissingError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def register(app: typer.Typer, folder: Path = FOLDER) -> None:
    """Add the verb to the command line, with the benches of `folder` where there is one."""
    if not (folder / "verbs.py").is_file():
        app.command("bench", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(missing)
        return
    if "benchmarks" not in sys.modules:  # by its place: others install a package of this name as well
        spec = spec_from_file_location("benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        sys.modules["benchmarks"] = module_from_spec(spec)
    app.add_typer(import_module("benchmarks.verbs").bench_app, name="bench")


def missing() -> None:
    """How fast this machine is: in a clone of the repository, which alone has the benches."""
    raise MissingError("there are no benches here: an installed package has none", hint="run it in a clone: make setup")
