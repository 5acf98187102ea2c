"""Which example comes when: epoch order, extra images, validation part, subsets, label noise. All from integers, on
the host.

Every draw is a sort of raw words of a PCG64 bit generator seeded by (seed, purpose, ...). NumPy promises that these
words never change between versions, which it does not promise for `Generator.permutation`; so a run may be resumed
under another NumPy.
"""

from __future__ import annotations

import numpy as np

from advjax.data.base import Split
from advjax.errors import InputError

_EPOCH, _VALIDATION, _NOISE, _SUBSET, _EXTRA, _PARTNER, _CROP = range(7)


def _words(count: int, seed: int, *purpose: int) -> np.ndarray:
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: integers from 0 on")
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=purpose)).random_raw(count)


def _permutation(count: int, seed: int, *purpose: int) -> np.ndarray:
    return np.argsort(_words(count, seed, *purpose), kind="stable")


def crop_draws(seed: int, epoch: int, id: int, count: int) -> np.ndarray:
    """float64 [count], uniform in [0, 1): where an example's random crop lies in this epoch."""
    return (_words(count, seed, _CROP, epoch, id) >> np.uint64(11)) * 2.0**-53


def epoch_order(seed: int, epoch: int, n: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The batches of one epoch: a permutation of all examples, cut into batches.

    The order depends on (seed, epoch, n) alone, so the same examples meet in the same batch whatever the devices, and
    a run that resumes in the middle of an epoch needs to remember nothing but the step.

    Args:
        seed: from 0 on.
        epoch: from 0 on.
        n: number of examples, at least 1.
        batch_size: global batch size, at least 1.

    Returns:
        index: int32 [steps, batch_size], rows of the training set, steps = ceil(n / batch_size). The last batch is
            filled up by repeating it from its start, so every entry is a valid row.
        weight: float32 [steps, batch_size], 1 for an example, 0 for a repeated one. The weights sum to n.

    Raises:
        InputError: a value outside these ranges.
    """
    for field, value, low in (("n", n, 1), ("batch_size", batch_size, 1), ("epoch", epoch, 0)):
        if value < low:
            raise InputError(f"{field} is {value}; allowed: integers from {low} on")
    order = _permutation(n, seed, _EPOCH, epoch).astype(np.int32)
    steps = -(-n // batch_size)
    last = order[(steps - 1) * batch_size :]
    index = np.concatenate([order[: (steps - 1) * batch_size], np.resize(last, batch_size)])
    weight = (np.arange(steps * batch_size) < n).astype(np.float32)
    return index.reshape(steps, batch_size), weight.reshape(steps, batch_size)


def mixed_order(
    seed: int, epoch: int, n: int, extra: int, batch_size: int, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """The batches of one epoch with extra images among them, as Wang et al. 2023 (DM) and Gowal et al. 2021 mix them.

    A batch has int(ratio batch_size) extra examples, drawn uniformly with replacement, spread evenly over its places
    (and so over devices); the others come from shuffled passes over the real set, the permutations of `epoch_order`
    one after the other, where the batch before left off. An epoch is ceil(n / batch_size) batches, all of them full.
    Everything depends on the arguments alone, as in `epoch_order`.

    Args:
        seed: from 0 on.
        epoch: from 0 on.
        n: number of real examples, at least 1.
        extra: number of extra examples, at least 1.
        batch_size: global batch size, at least 1.
        ratio: share of extra examples, at least 0 and below 1 (DM: 0.7 with a million images, 0.8 with 20 million).

    Returns:
        index: int32 [steps, batch_size]: a row of the real set below n, n plus a row of the extra set from n on.
        weight: float32 [steps, batch_size], all 1.

    Raises:
        InputError: a value outside these ranges.
    """
    for field, value, low in (("n", n, 1), ("extra", extra, 1), ("batch_size", batch_size, 1), ("epoch", epoch, 0)):
        if value < low:
            raise InputError(f"{field} is {value}; allowed: integers from {low} on")
    if n + extra > np.iinfo(np.int32).max:
        raise InputError(f"extra is {extra}; allowed: fewer than 2^31 examples together with the {n} real ones")
    if not 0 <= ratio < 1:
        raise InputError(f"ratio is {ratio}; allowed: at least 0 and below 1")
    # 0.29 x 100 is 28.999999999999996 in floating point.
    added = int(ratio * batch_size + 1e-6)
    place = np.arange(batch_size) * added // batch_size
    from_extra = np.diff(place, append=added) > 0
    steps = -(-n // batch_size)
    real = steps * (batch_size - added)
    passes, row = np.divmod(np.arange(epoch * real, (epoch + 1) * real), n)
    index = np.empty((steps, batch_size), np.int32)
    index[:, from_extra] = (n + _words(steps * added, seed, _EXTRA, epoch) % np.uint64(extra)).reshape(steps, added)
    orders = {p: _permutation(n, seed, _EPOCH, int(p)) for p in np.unique(passes)}
    index[:, ~from_extra] = np.concatenate([orders[p][row[passes == p]] for p in orders]).reshape(steps, -1)
    return index, np.ones(index.shape, np.float32)


def partners(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """Another example of the same batch for each: what CutMix cuts from.

    Args:
        seed: from 0 on.
        epoch: from 0 on.
        index: int32 [steps, batch_size], of `epoch_order` or `mixed_order`.

    Returns:
        `index`, the places of its batches permuted by one permutation per epoch; a place may be its own partner.
    """
    return index[:, _permutation(index.shape[1], seed, _PARTNER, epoch)]


def subset(split: Split, size: int) -> Split:
    """A part of a training set, always the same one, with each class's share kept as far as whole numbers allow.

    The seed of a run has no say in it, so that runs of several seeds train on the same images. A smaller subset lies
    within a larger one but for single images where shares are rounded.

    Args:
        split: N examples.
        size: how many to keep, 1..N.

    Returns:
        `size` examples in the order of `split`.

    Raises:
        InputError: a size outside 1..N (the field is `data.examples`).
    """
    n = len(split.label)
    if not 1 <= size <= n:
        raise InputError(f"data.examples: {size} of a training set of {n} examples; allowed: 1..{n}, 0 for all")
    index = _stratified(split.label, size, _permutation(n, 0, _SUBSET))
    return split.select(index)


def _stratified(label: np.ndarray, size: int, order: np.ndarray) -> np.ndarray:
    """int64 [size], ascending: the first rows in `order` of every class, as many as its share."""
    classes, member, counts = np.unique(label, return_inverse=True, return_counts=True)
    share, remainder = np.divmod(size * counts.astype(np.int64), len(label))
    share[np.argsort(-remainder, kind="stable")[: size - share.sum()]] += 1
    taken = [order[member[order] == c][: share[c]] for c in range(len(classes))]
    return np.sort(np.concatenate(taken)).astype(np.int64)


def split_validation(split: Split, size: int, seed: int) -> tuple[Split, Split, np.ndarray]:
    """Carves a validation part from a training set, with each class's share kept as far as whole numbers allow.

    A class of n_c examples out of N gives floor(size n_c / N), and the classes with the largest remainders (the
    lowest class first among equals) one more, until there are `size`. Both parts keep the order of `split`.

    Args:
        split: the training set, N examples.
        size: examples in the validation part, 0..N-1.
        seed: from 0 on; the same seed gives the same examples.

    Returns:
        train: the N - size examples that are left.
        validation: the `size` examples taken.
        index: int64 [size], ascending, the rows of `split` that make up `validation`.

    Raises:
        InputError: a size outside 0..N-1 (the field is `data.validation`) or a negative seed.
    """
    n = len(split.label)
    if not 0 <= size < n:
        raise InputError(f"data.validation: size {size} of a training set of {n} examples; allowed: 0..{n - 1}")
    index = _stratified(split.label, size, _permutation(n, seed, _VALIDATION))
    keep = np.ones(n, bool)
    keep[index] = False
    return split.select(keep), split.select(index), index


def inject_label_noise(labels: np.ndarray, rate: float, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric label noise: round(rate N) labels drawn without replacement and redrawn uniformly over all classes.

    A redrawn label may equal the old one (with probability 1 / num_classes), so the share of wrong labels is about
    rate (1 - 1 / num_classes). This is the noise of SGLR's analysis of the gradient norm.

    Args:
        labels: integers [N], 0..num_classes-1; left as they are.
        rate: 0..1.
        num_classes: number of classes.
        seed: from 0 on.

    Returns:
        labels: int32 [N].
        index: int64 [round(rate N)], ascending, the redrawn rows.

    Raises:
        InputError: a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise InputError(f"label noise: rate is {rate}; allowed: 0 to 1")
    n = len(labels)
    index = np.sort(_permutation(n, seed, _NOISE, 0)[: round(rate * n)]).astype(np.int64)
    noisy = np.array(labels, np.int32)
    # The modulo of a 64-bit word is uniform up to num_classes / 2^64.
    noisy[index] = _words(n, seed, _NOISE, 1)[: len(index)] % np.uint64(num_classes)
    return noisy, index
