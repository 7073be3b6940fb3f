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
STORE = "NANOCHAT_RANKS"  # the file where the ranks of one machine look each other up


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The machines of one training, seen from one of them."""

    num: int = 1
    rank: int = 0
    """0 leads: it opens the rendezvous, runs the pipeline and publishes."""
    rendezvous: str = ""
    """host:port of the leader; one node needs none."""
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


def command_of_ranks(module: str, *arguments: str, num_processes: int, nodes: Nodes | None = None) -> list[str]:
    """What starts `python -m module arguments` as this node's `num_processes` ranks: torchrun where there are several.

    One rank alone has nobody to look after but itself; torchrun beside it would cost a second and 200 MB.
    """
    if num_processes == 1 and (nodes or Nodes()).num == 1:
        return [sys.executable, "-m", module, *arguments]
    return torchrun(module, *arguments, num_processes=num_processes, nodes=nodes)


def torchrun(module: str, *arguments: str, num_processes: int, nodes: Nodes | None = None) -> list[str]:
    """torchrun for this node's `num_processes` ranks of `python -m module arguments`."""
    nodes = nodes or Nodes()
    ranks = [f"--nproc-per-node={num_processes}", "--max-restarts=0", "-m", module, *arguments]
    if nodes.num == 1:
        return [sys.executable, "-m", "nanochat_core.base.one_node", *ranks]
    host, _, port = nodes.rendezvous.rpartition(":")
    meeting = ["--rdzv-backend=static", f"--rdzv-endpoint={nodes.rendezvous}", f"--rdzv-id={nodes.run_id}"]
    meeting += [f"--nnodes={nodes.num}", f"--node-rank={nodes.rank}", f"--master-addr={host}", f"--master-port={port}"]
    return [sys.executable, "-m", "torch.distributed.run", *meeting, *ranks]
