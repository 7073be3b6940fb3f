"""The language model: its shape (no torch), the network, its loss, its cache for generation and its initial weights.

`shape.py` is the only module here that may be imported without torch; the plan is computed from it. Everything is
plain eager PyTorch with a few hand-written backward passes, so that a first training step needs no compilation.
"""
