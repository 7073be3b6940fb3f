"""Text to token ids and back, BPE training, and conversations as ids with a loss mask."""
