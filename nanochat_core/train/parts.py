"""Tensors that the ranks hold in parts (DTensors): telling them from whole ones, gathering them, filling them.

Which part is whose is asked of the tensor the way DCP asks, so that what is written, read and handed out agrees.
"""

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DeviceMesh, DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

Tensors = dict[str, torch.Tensor]


def split(tensors: Mapping[str, torch.Tensor]) -> tuple[Tensors, dict[str, DTensor]]:
    """Those that every rank holds whole, and those that it holds a part of."""
    sharded = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    return {name: tensor for name, tensor in tensors.items() if name not in sharded}, sharded


def fill(tensor: DTensor, full: torch.Tensor) -> None:
    """Copy this rank's part out of the whole tensor."""
    shape, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    local = tensor.to_local()
    if local.numel():
        piece = full[tuple(slice(first, first + size) for first, size in zip(offsets, shape, strict=True))]
        local.copy_(piece)


def on_host(tensor: DTensor, local: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    """The same part of the same tensor, held by `local` in host memory; `mesh` has the same ranks."""
    return DTensor.from_local(
        local, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
