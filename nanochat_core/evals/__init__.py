"""Measuring finished models: bits per byte, samples, benchmarks."""
