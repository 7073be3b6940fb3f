"""The command that starts the ranks of a training or an evaluation: on this machine, or as one node of several.

Several nodes meet at a host and port that the first one opens. Which node this is comes from the environment, as a
launcher (Slurm, a Kubernetes Job) sets it for each node; infra/ has templates. The rendezvous is torchrun's static one:
c10d's numbers the nodes by their addresses, whatever --node-rank says, and the model would be saved on any of them.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from nanochat_core.base.errors import ConfigError

NODE_RANK, RENDEZVOUS = "NANOCHAT_NODE_RANK", "NANOCHAT_RENDEZVOUS"


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The machines of one training, seen from one of them."""

    num: int = 1
    rank: int = 0
    """0 leads: it opens the rendezvous, runs the pipeline and publishes."""
    rendezvous: str = "127.0.0.1:0"  # not the name: some containers do not know localhost
    """host:port of the leader; port 0 with one node: any free one."""
    run_id: str = "none"
    """Trainings with the same id meet; those with another one at the same port do not."""

    @classmethod
    def from_environment(cls, num: int, *, run_id: str, environment: Mapping[str, str] = os.environ) -> "Nodes":
        """`num` nodes; with more than one, the launcher says which this is and where they meet."""
        if num == 1:
            return cls()
        try:
            rank, rendezvous = int(environment[NODE_RANK]), environment[RENDEZVOUS]
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"runtime.num_nodes = {num}, and {NODE_RANK} and {RENDEZVOUS} do not say which node this is ({error})",
                hint=f"{NODE_RANK}=0 {RENDEZVOUS}=first-node:29500 on the first node; infra/ has templates",
            ) from error
        if not 0 <= rank < num:
            raise ConfigError(f"{NODE_RANK} = {rank} with runtime.num_nodes = {num}", hint=f"0 to {num - 1}")
        return cls(num=num, rank=rank, rendezvous=rendezvous, run_id=run_id)

    @property
    def leads(self) -> bool:
        return self.rank == 0


def torchrun(module: str, *arguments: str, num_processes: int, nodes: Nodes | None = None) -> list[str]:
    """torchrun for this node's `num_processes` ranks of `python -m module arguments`."""
    nodes = nodes or Nodes()
    command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes.num}", "--max-restarts=0"]
    command += [f"--nproc-per-node={num_processes}", f"--rdzv-endpoint={nodes.rendezvous}"]
    if nodes.num == 1:
        # by its own name, which not every machine can resolve, the ranks would wait for each other without end
        command += ["--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    else:
        host, _, port = nodes.rendezvous.rpartition(":")
        command += ["--rdzv-backend=static", f"--node-rank={nodes.rank}", f"--rdzv-id={nodes.run_id}"]
        command += [f"--master-addr={host}", f"--master-port={port}"]
    return [*command, "-m", module, *arguments]
