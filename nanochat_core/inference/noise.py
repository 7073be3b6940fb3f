"""Random numbers that are a function of (seed, number) and of nothing else.

A generator has a state that moves, and one for each request of a batch would have to be copied, kept and stored with
it. Counting needs none: the n-th draw of a request uses the n-th output of the SplitMix64 stream that starts at its
seed (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195). One number per token is too few for a device to matter.
"""

STEP = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio, made odd
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = 2**64 - 1
UNIFORM_BITS = 53  # what a double holds exactly


def splitmix64(seed: int, number: int) -> int:
    """Output `number` (from 0) of the stream that starts at `seed`: 64 bits."""
    value = (seed + (number + 1) * STEP) & MASK
    value = ((value ^ (value >> 30)) * MIX_1) & MASK
    value = ((value ^ (value >> 27)) * MIX_2) & MASK
    return value ^ (value >> 31)


def uniform(seed: int, number: int) -> float:
    """A number from 0 up to, but never, 1."""
    # The outputs of a stream are those of its neighbours a step away, and seeds that count up are neighbours of a kind:
    # hashing the seed first puts every stream somewhere else.
    return (splitmix64(splitmix64(seed, 0), number) >> (64 - UNIFORM_BITS)) * 2.0**-UNIFORM_BITS
