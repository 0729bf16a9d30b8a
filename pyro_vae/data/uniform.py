"""Uniform random numbers, many at once."""

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - 2**64  # the constants of SplitMix64, as signed numbers
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
FEW = 2**14  # numbers that torch.rand draws before this many operations are started


def uniform(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in [0, 1) in the shape and on the device of `like`, as fine as those of `torch.rand`: 2^-24, or 2^-53.

    On a CPU `torch.rand` draws one number after the other in one thread. Here, unless there are few, it gives one key,
    and number i is a function of key and i, so that a compiled graph draws them with all its threads and vector units.
    """
    few = like.device.type != "cpu" or like.numel() < FEW
    if few or dtype not in (torch.float32, torch.float64):
        return torch.rand(like.shape, dtype=dtype, device=like.device)
    key, n = torch.randint(-(2**63), 2**63 - 1, (2,)), like.numel()
    if dtype == torch.float64:
        bits, words, spare = 53, splitmix64(key, n), 11
    else:
        words = splitmix64(key, -(-n // 2)).view(torch.int32)[:n]
        bits, spare = 24, 8
    whole = (words >> spare) & (2**bits - 1)
    return (whole.to(dtype) * 2.0**-bits).view(like.shape)


def splitmix64(key: Tensor, n: int) -> Tensor:
    """`n` numbers of the generator SplitMix64 seeded with `key[0]`, as signed 64-bit integers, `(n,)`.

    They are those at the places `1, ..., n`, each XOR `key[1]`: the first ones in order where that is 0. A compiler
    that knew the places would conclude from the overflow of their products that a loop ends early.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), with the mixing function of
    Vigna's implementation.
    """
    z = key[0] + (torch.arange(1, n + 1) ^ key[1]) * GAMMA
    # a mask makes a shift a logical one
    z = (z ^ ((z >> 30) & (2**34 - 1))) * FACTORS[0]
    z = (z ^ ((z >> 27) & (2**37 - 1))) * FACTORS[1]
    return z ^ ((z >> 31) & (2**33 - 1))
