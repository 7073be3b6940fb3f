"""Every stage of the pipeline on both sides: ours, and a checkout of nanochat that somebody has (`__main__.py`)."""
