"""Records that strangers can check: bundles of a run's evidence, their verification, a leaderboard, comparisons.

Everything here reads what runs left behind; nothing trains, and nothing needs torch, a GPU or a network.
"""
