import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advjax.data import Split, epoch_order, inject_label_noise, mixed_order, split_validation, subset
from advjax.errors import InputError


def _split(labels):
    labels = np.asarray(labels, np.int32)
    return Split(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], labels)


@given(st.integers(0, 2**40), st.integers(0, 500), st.integers(1, 300), st.integers(1, 400))
def test_epoch_order_is_a_padded_permutation(seed, epoch, n, batch_size):
    index, weight = epoch_order(seed, epoch, n, batch_size)
    assert index.dtype == np.int32 and weight.dtype == np.float32
    assert index.shape == weight.shape == (-(-n // batch_size), batch_size)
    assert sorted(index[weight == 1]) == list(range(n))
    assert set(np.unique(weight)) <= {0.0, 1.0} and weight.sum() == n
    real = int(weight[-1].sum())
    assert weight[-1, :real].all() and not weight[-1, real:].any()
    np.testing.assert_array_equal(index[-1, real:], np.resize(index[-1, :real], batch_size)[real:])


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 90), st.integers(1, 90))
def test_epoch_order_does_not_depend_on_the_batch_size(seed, epoch, one, other):
    orders = [index[weight == 1] for index, weight in (epoch_order(seed, epoch, 64, size) for size in (one, other))]
    np.testing.assert_array_equal(*orders)


def test_epoch_order_differs_by_epoch_and_seed():
    orders = {epoch_order(seed, epoch, 100, 100)[0].tobytes() for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    # A seed and an epoch must not be exchangeable.
    assert epoch_order(1, 2, 100, 100)[0].tobytes() != epoch_order(2, 1, 100, 100)[0].tobytes()


def test_epoch_order_never_changes():
    """A run resumed under another version must see the same batches; these values are from the first version."""
    index, _ = epoch_order(seed=3, epoch=7, n=10, batch_size=4)
    assert index.tolist() == [[3, 2, 7, 8], [1, 5, 9, 6], [4, 0, 4, 0]]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((-1, 0, 4, 2), "seed"), ((0, -1, 4, 2), "epoch"), ((0, 0, 0, 2), "n is"), ((0, 0, 4, 0), "batch_size")],
)
def test_epoch_order_refuses(arguments, field):
    with pytest.raises(InputError, match=field):
        epoch_order(*arguments)


@given(
    st.integers(0, 99),
    st.integers(0, 20),
    st.integers(1, 60),
    st.integers(1, 90),
    st.integers(1, 30),
    st.floats(0, 0.99),
)
def test_mixed_order_is_shuffled_passes_and_uniform_draws(seed, epoch, n, extra, batch_size, ratio):
    batches = [mixed_order(seed, e, n, extra, batch_size, ratio)[0] for e in range(epoch + 1)]
    steps, added = -(-n // batch_size), int(ratio * batch_size + 1e-6)
    index = batches[-1]
    assert index.dtype == np.int32 and index.shape == (steps, batch_size) and index.min() >= 0
    from_extra = index >= n
    assert (from_extra.sum(1) == added).all() and index.max() < n + extra
    # Wherever a batch is cut, either part has its share of the extra images, to less than one.
    cut = from_extra[:, : batch_size // 2].sum(1)
    assert (abs(cut - added * (batch_size // 2) / batch_size) < 1).all()
    # All epochs' real rows, one after the other, are the permutations of `epoch_order`, one after the other.
    rows = np.concatenate([b[b < n] for b in batches])
    passes = [epoch_order(seed, p, n, n)[0][0] for p in range(len(rows) // n + 1)]
    np.testing.assert_array_equal(rows, np.concatenate(passes)[: len(rows)])


def test_mixed_order_draws_every_extra_image_alike():
    index, weight = mixed_order(1, 3, 4000, 10, 100, 0.29)
    drawn = index[index >= 4000] - 4000
    # 29 of 100 (not 28, as int(0.29 * 100) has it): 116 expected of each, standard deviation 10.
    assert len(drawn) == 29 * 40 and (abs(np.bincount(drawn, minlength=10) - 116) < 50).all()
    assert (weight == 1).all() and weight.shape == index.shape
    assert not np.array_equal(index, mixed_order(1, 4, 4000, 10, 100, 0.29)[0])
    assert not np.array_equal(drawn, mixed_order(2, 3, 4000, 10, 100, 0.29)[0][index >= 4000] - 4000)
    assert mixed_order(3, 7, 5, 4, 4, 0.5)[0].tolist() == [[0, 6, 3, 8], [1, 7, 3, 8]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 4, 2, 2, 1.0), "ratio is 1.0"),
        ((0, 0, 4, 2, 2, float("nan")), "ratio is nan"),
        ((0, 0, 4, 0, 2, 0.5), "extra is 0"),
        ((0, 0, 4, 2**31, 2, 0.5), r"fewer than 2\^31"),
        ((0, 0, 0, 1, 2, 0.5), "n is 0"),
        ((0, -1, 4, 1, 2, 0.5), "epoch is -1"),
        ((0, 0, 4, 1, 0, 0.5), "batch_size is 0"),
    ],
)
def test_mixed_order_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        mixed_order(*arguments)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=120), st.floats(0.01, 1))
def test_subset_keeps_the_shares_of_the_classes(labels, share):
    split = _split(labels)
    size = max(1, int(share * len(labels)))
    kept = subset(split, size)
    rows = kept.image.ravel()
    assert len(kept.label) == size and (np.diff(rows.astype(int)) > 0).all()
    np.testing.assert_array_equal(kept.label, split.label[rows])
    exact = size * np.bincount(labels, minlength=5) / len(labels)
    assert (np.abs(np.bincount(kept.label, minlength=5) - exact) < 1).all()
    np.testing.assert_array_equal(rows, subset(split, size).image.ravel())


def test_subsets_are_nested_drawn_from_everywhere_and_refused_beyond_the_set():
    split = _split(np.arange(200) % 10)
    small, large = (set(subset(split, size).image.ravel()) for size in (50, 100))
    assert small < large and min(large) < 20 and max(large) > 180
    for size in (0, -1, 201):
        with pytest.raises(InputError, match=r"data\.examples: .*allowed: 1\.\.200"):
            subset(split, size)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=120), st.floats(0, 0.999), st.integers(0, 1000))
def test_split_validation_is_disjoint_and_stratified(labels, share, seed):
    split = _split(labels)
    size = int(share * len(labels))
    train, validation, index = split_validation(split, size, seed)
    assert index.dtype == np.int64 and len(index) == size == len(validation.label)
    assert len(train.label) == len(labels) - size
    # The image of row i is i: both parts hold their own rows, and together all of them.
    np.testing.assert_array_equal(validation.image.ravel(), index)
    assert sorted([*train.image.ravel(), *index]) == list(range(len(labels)))
    np.testing.assert_array_equal(validation.label, split.label[index])
    np.testing.assert_array_equal(train.label, split.label[train.image.ravel()])
    exact = size * np.bincount(labels, minlength=5) / len(labels)
    assert (np.abs(np.bincount(validation.label, minlength=5) - exact) < 1).all()
    np.testing.assert_array_equal(index, split_validation(split, size, seed)[2])


def test_split_validation_depends_on_the_seed():
    split = _split(np.arange(100) % 10)
    assert len({split_validation(split, 20, seed)[2].tobytes() for seed in range(10)}) == 10


@pytest.mark.parametrize("size", [-1, 10, 11])
def test_split_validation_refuses(size):
    with pytest.raises(InputError, match=r"data\.validation.*0\.\.9"):
        split_validation(_split([0] * 10), size, 0)


@given(st.integers(1, 200), st.floats(0, 1), st.integers(2, 12), st.integers(0, 1000))
def test_label_noise_touches_only_its_rows(n, rate, num_classes, seed):
    labels = np.arange(n) % num_classes
    noisy, index = inject_label_noise(labels, rate, num_classes, seed)
    assert noisy.dtype == np.int32 and len(index) == len(set(index)) == round(rate * n)
    untouched = np.setdiff1d(np.arange(n), index)
    np.testing.assert_array_equal(noisy[untouched], labels[untouched])
    assert noisy.min() >= 0 and noisy.max() < num_classes
    np.testing.assert_array_equal(labels, np.arange(n) % num_classes)


def test_label_noise_is_uniform_over_all_classes():
    labels = np.zeros(20_000, np.int32)
    noisy, index = inject_label_noise(labels, 0.5, 10, seed=1)
    # 10,000 draws: 1,000 expected per class, the old one included, standard deviation 30.
    assert (np.abs(np.bincount(noisy[index], minlength=10) - 1000) < 150).all()
    assert 4500 < index.mean() / 2 < 5500


def test_label_noise_refuses_a_rate_above_one():
    with pytest.raises(InputError, match="0 to 1"):
        inject_label_noise(np.zeros(4, int), 20, 10, 0)
