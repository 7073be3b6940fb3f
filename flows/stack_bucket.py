"""Make the bucket that NANOCHAT_STORE names, if it is not there: `python -m flows.stack_bucket`.

Object stores start empty, and the store never makes a bucket by itself: on somebody's cloud a misspelt name must stay
an error. The compose file runs this once against the server that it has just started.
"""

import os

from flows.stack_store import make_bucket
from nanochat_core.base.errors import ConfigError
from nanochat_core.workspace import store_url_from_environment


def main() -> None:
    """Read the environment, make the bucket."""
    url = store_url_from_environment()
    if not url.startswith("s3://"):
        raise ConfigError(f"{url} is no bucket", hint="set NANOCHAT_STORE to s3://bucket/prefix")
    bucket = url.removeprefix("s3://").split("/")[0]
    make_bucket(dict(os.environ), bucket)
    print(f"bucket {bucket} is there")


if __name__ == "__main__":
    main()
