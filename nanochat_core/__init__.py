"""Everything that knows about language models, storage and serving; it never imports Prefect.

Importing this package does no work: no argument parsing, no process group, no logging set-up.
"""

__version__ = "0.3.0"
