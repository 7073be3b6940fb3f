"""Whether Triton kernels can run on a tensor's device, and how their blocks are sized.

PyTorch's CUDA builds for Linux bring Triton along; its CPU builds do not. Ampere is the oldest generation that computes
in bf16, and the oldest that these kernels were written for.
"""

import importlib.util
from functools import lru_cache

import torch

OLDEST_CAPABILITY = (8, 0)


@lru_cache(maxsize=16)
def available(device: torch.device) -> bool:
    """True on a GPU that Triton compiles for."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY


def power_of_two(size: int) -> int:
    """The smallest power of two that holds `size`: the shape of a block of registers."""
    return 1 << max(0, size - 1).bit_length()
