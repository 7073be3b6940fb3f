"""Triton kernels: elementwise work that eager PyTorch does in several passes over memory, in one.

Each module holds one family, with the PyTorch formula that it replaces as the oracle of its tests. Nothing imports
them unless a CUDA tensor asks (`launch.available`), so Triton is needed on a GPU only; on a CPU the tests run them in
Triton's interpreter (TRITON_INTERPRET=1), which checks the arithmetic and every index, not the speed.
"""
