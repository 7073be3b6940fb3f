"""CORE: the 22 in-context-learning benchmarks of the DCLM paper (arXiv 2406.11794), as one number for a base model.

bundle.py reads the published data, prompts.py renders and tokenizes it once, scoring.py puts a model's losses on every
item, results.py makes accuracies and the metric of them; worker.py is the process that does the last two.
"""
