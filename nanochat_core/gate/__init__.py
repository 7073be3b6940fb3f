"""The nightly gate: a training per night, compared with a pinned baseline, and a verdict that knows noise.

`level` and `rule` are the statistics, `verdict` applies them to all metrics, `night` and `baseline` keep the history in
the store, `bisect` finds the commit. docs/nightly.md is the guide, with the rule's error rates.
"""
