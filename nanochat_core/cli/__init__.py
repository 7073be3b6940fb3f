"""The command line's verbs that need no Prefect, and how a run looks in a terminal."""
