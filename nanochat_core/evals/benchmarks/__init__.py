"""Chat benchmarks: one file each, one protocol (protocol.py), one table (registry.py).

sources.py opens their data, registry.py writes the items of a run, runner.py and worker.py have a model answer them,
scoring.py turns marks into scores, contamination.py looks for items among the training conversations.
"""
