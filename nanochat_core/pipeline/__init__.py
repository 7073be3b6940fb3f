"""Running the steps: what a step is, how one is run or found in the store, all of them, and what a run leaves behind.

What each step does is in a file of its own, in nanochat_core/steps.
"""
