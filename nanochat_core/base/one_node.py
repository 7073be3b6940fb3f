"""torchrun for ranks that all run on this machine, without a port.

    python -m nanochat_core.base.one_node --nproc-per-node=2 -m module argument ...

torchrun's own rendezvous listens on every address of the machine, asks nobody who they are, and unpickles what they
say; the store where ranks look each other up listens beside it, and whoever writes there takes a rank's place. Here the
rendezvous is this process's memory. The store is a file without a name that this process holds open: ranks find it
below /proc, where only their own user and root may look, and it ends with this process, however that ends.
"""

import os
import sys

from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.run import main as torchrun_main

from nanochat_core.base.torchrun import STORE

NAME = "one-node"


class OneNode(RendezvousHandler):
    """A rendezvous of one: nobody comes, nobody is waited for."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id

    def get_backend(self) -> str:
        return NAME

    def next_rendezvous(self) -> RendezvousInfo:
        # torchrun wants an address for its ranks; they meet in the file, and nobody listens there
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", 0))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def main() -> None:
    os.environ[STORE] = f"/proc/{os.getpid()}/fd/{os.memfd_create('ranks')}"  # in memory: some disks have no locks
    rendezvous_handler_registry.register(NAME, OneNode)
    # an address, since torchrun would look up this machine's name, which not every machine can resolve
    torchrun_main([f"--rdzv-backend={NAME}", "--local-addr=127.0.0.1", *sys.argv[1:]])


if __name__ == "__main__":
    main()
