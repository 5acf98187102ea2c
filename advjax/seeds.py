"""Seeds: JAX keeps 32 bits of one and drops the rest without a word, so what does not fit is refused."""

from __future__ import annotations

import numbers

from advjax.errors import InputError


def check_seed(seed: object, field: str = "seed") -> int:
    """`seed` as an int.

    Raises:
        InputError: it is no whole number in 0..2**32-1; names `field`.
    """
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= int(seed) < 2**32:
        raise InputError(f"{field} must be a whole number from 0 to {2**32 - 1}, it is {seed!r}")
    return int(seed)
