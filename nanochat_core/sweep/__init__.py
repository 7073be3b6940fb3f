"""Sweeps over one dial: a miniseries of depths, and a grid of FLOP budgets and depths with the laws fitted to it.

A sweep is many runs of the same pipeline that share corpus, tokenizer and tokens through the store. This package plans
the cells, watches what they cost, fits what they show, and keeps a record from which the report can be drawn again.
Nothing here trains and nothing knows Prefect: flows/ hands in how a cell is run.
"""
