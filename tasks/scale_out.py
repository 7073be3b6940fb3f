"""Tokenization on a cluster that exists: one Prefect task per shard of text, on Dask or Ray workers.

The workers need this package, the store (`NANOCHAT_STORE`) and Prefect's server (`PREFECT_API_URL`; without it each
would start one of its own); what they hand back is a ref. A worker that dies loses the shard it was at: the scheduler
gives it to another one, and finished shards are found in the store.
"""

import os
import socket
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from prefect import flow
from prefect.futures import wait
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import TaskRunner

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.config import RuntimeConfig
from nanochat_core.pipeline.cleaning import text_of
from nanochat_core.pipeline.execute import execute
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan
from nanochat_core.steps import tokens as tokens_step
from tasks import policy


def encoded_shards(plan: RunPlan, inputs: dict[str, Ref]) -> None:
    """Encode the shards of the text on the cluster that the plan names; the `tokens` step puts them together."""
    if tokens_step.are_parts_wanted(plan, inputs):
        _check_reachable(plan.config.runtime)
        runner = task_runner(plan.config.runtime)
        encode_shards.with_options(task_runner=runner)(plan, inputs)


@flow(name="tokenize", description="Encode the shards of a corpus on a cluster.", validate_parameters=False)
def encode_shards(plan: RunPlan, inputs: dict[str, Ref]) -> list[Ref]:
    """Refs of the encoded shards, in the order of the shards."""
    files = tokens_step.files_of(workspace.current().store, text_of(inputs))
    futures = [encode_shard.submit(plan, inputs, file) for file in files]
    wait(futures)
    return [future.result() for future in futures]


def _encode_shard(plan: RunPlan, inputs: dict[str, Ref], file: str) -> Ref:
    """One shard, on whichever worker this runs."""
    step = replace(tokens_step.part_step(file), inputs=STEPS["tokens"].inputs)
    return execute(step, plan, inputs)


encode_shard = policy.as_task(_encode_shard, name="encode_shard", run_name="encode {file}", retries=2)


def _check_reachable(runtime: RuntimeConfig) -> None:
    """Workers elsewhere report to Prefect's server, so it may not be one that only this machine can reach."""
    workers = urlsplit(runtime.scale_out_address or "").hostname
    api = urlsplit(PREFECT_API_URL.value() or os.environ.get("PREFECT_API_URL", "")).hostname or "nowhere"
    if workers and not _is_here(workers) and (api == "nowhere" or _is_here(api)):
        raise ConfigError(
            f"the workers of {runtime.scale_out_address} cannot reach Prefect's server at {api}",
            hint="start a server that they reach, and set PREFECT_API_URL to it here and where the workers start",
        )


def _is_here(host: str) -> bool:
    """Whether a host is this machine: only its own addresses can be listened on."""
    try:
        socket.create_server((host, 0)).close()
    except OSError:
        return False
    return True


def task_runner(runtime: RuntimeConfig) -> TaskRunner[Any]:
    """The runner that the configuration names, connected to its cluster or with a cluster of this machine's own."""
    try:
        if runtime.scale_out == "dask":
            from prefect_dask import DaskTaskRunner

            workers = {"n_workers": runtime.num_workers, "threads_per_worker": 1, "processes": True}
            kept = {name: value for name, value in workers.items() if value is not None}
            if runtime.scale_out_address:
                return DaskTaskRunner(address=runtime.scale_out_address)
            return DaskTaskRunner(cluster_kwargs=kept)
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise ConfigError(
            f"runtime.scale_out = {runtime.scale_out} needs a package that is not installed: {error.name}",
            hint=f"pip install 'nanochat-prefect[{runtime.scale_out}]'",
        ) from error
    return RayTaskRunner(address=runtime.scale_out_address)
