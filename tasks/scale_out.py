"""Tokenization on a cluster that exists: one Prefect task per shard of text, on Dask or Ray workers.

The workers need this package and the store (`NANOCHAT_STORE`); what they hand back is a ref. A worker that dies loses
the shard it was at: the scheduler gives it to another one, and finished shards are found in the store.
"""

from typing import Any

from prefect import flow
from prefect.futures import wait
from prefect.task_runners import TaskRunner

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.config import RuntimeConfig
from nanochat_core.pipeline import token_parts
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.steps import STEPS
from nanochat_core.plan import RunPlan
from tasks import policy


def encoded_shards(plan: RunPlan, corpus: Ref, tokenizer: Ref) -> None:
    """Encode the shards of the corpus on the cluster that the plan names; the `tokens` step puts them together."""
    if token_parts.are_wanted(plan, corpus, tokenizer, STEPS["tokens"]):
        runner = task_runner(plan.config.runtime)
        encode_shards.with_options(task_runner=runner)(plan, corpus, tokenizer)


@flow(name="tokenize", description="Encode the shards of a corpus on a cluster.", validate_parameters=False)
def encode_shards(plan: RunPlan, corpus: Ref, tokenizer: Ref) -> list[Ref]:
    """Refs of the encoded shards, in the order of the shards."""
    files = token_parts.files_of(workspace.current().store, corpus)
    futures = [encode_shard.submit(plan, corpus, tokenizer, file) for file in files]
    wait(futures)
    return [future.result() for future in futures]


def _encode_shard(plan: RunPlan, corpus: Ref, tokenizer: Ref, file: str) -> Ref:
    """One shard, on whichever worker this runs."""
    return token_parts.make(plan, corpus, tokenizer, file=file, steps=STEPS)


encode_shard = policy.as_task(_encode_shard, name="encode_shard", run_name="encode {file}", retries=2)


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
