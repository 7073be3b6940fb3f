"""Generation: sampling, the batched engine, the tool loop and its calculator."""
