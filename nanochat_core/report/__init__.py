"""What a run looks like to people: figures (a cached step), a page and a markdown summary (written for every run).

The figures depend on artifacts alone, so they are an artifact themselves. The page also tells which steps were cached
and how long this run took, so it belongs to the run and lives in its folder.
"""
