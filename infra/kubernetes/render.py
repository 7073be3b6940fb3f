"""Print the manifests of a training on several nodes, for `kubectl apply -f -`:

    python infra/kubernetes/render.py --nodes 2 --image registry.example/nanochat:cuda --store s3://bucket/prefix

The pods share nothing but the store; the Secret holds its keys (AWS_ACCESS_KEY_ID, ...).
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import jinja2

FOLDER = Path(__file__).parent
DNS_NAME = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")  # pods add a suffix to it, and 63 characters is the limit


def render(**values: Any) -> str:
    """The manifests as YAML; a value that is missing or makes no valid name is an error."""
    if not DNS_NAME.fullmatch(values["name"]):
        raise SystemExit(f"error: --name {values['name']!r} is not a DNS name: lower-case letters, digits and -")
    if values["nodes"] < 1 or values["gpus"] < 1:
        raise SystemExit(f"error: {values['nodes']} nodes with {values['gpus']} GPUs each train nothing")
    loader = jinja2.FileSystemLoader(FOLDER)
    template = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    own = [f"runtime.num_nodes={values['nodes']}", f"runtime.num_processes={values['gpus']}"]
    return template.get_template("training.yaml.j2").render(**{**values, "settings": [*values["settings"], *own]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="nanochat")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--image", required=True)
    parser.add_argument("--store", required=True, help="s3://bucket/prefix")
    parser.add_argument("--secret", default="nanochat-store")
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--node-selector", action="append", default=[], metavar="LABEL=VALUE")
    chosen = vars(parser.parse_args())
    chosen["node_selector"] = dict(label.split("=", 1) for label in chosen["node_selector"])
    sys.stdout.write(render(**chosen))


if __name__ == "__main__":
    main()
