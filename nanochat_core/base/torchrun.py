"""The command that starts the ranks of a training or an evaluation on this machine."""

import sys


def torchrun(module: str, *arguments: str, num_processes: int) -> list[str]:
    """torchrun for `num_processes` ranks of `python -m module arguments`; a free port is found for the rendezvous."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", f"--nproc-per-node={num_processes}", "--max-restarts=0"]
    return [*command, "-m", module, *arguments]
