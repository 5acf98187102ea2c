from types import SimpleNamespace

import jax
import pytest

from advjax.errors import InputError
from advjax.parallel import Devices

CPU, GPU = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="gpu")


@pytest.mark.parametrize(
    ("batch_size", "devices", "rows"),
    [(7, [CPU], 7), (1000, [CPU], 1000), (0, [CPU], 128), (0, [CPU] * 4, 512), (0, [GPU], 512), (0, [GPU] * 2, 1024)],
)
def test_batch_size_0_is_what_suits_the_devices(batch_size, devices, rows):
    assert Devices(devices).batch_size(batch_size) == rows


@pytest.mark.parametrize("size", [-3, 2.5, True, None])
def test_a_batch_size_that_is_none_is_refused(size):
    with pytest.raises(InputError, match=rf"^batch_size must be at least 1, or 0 for .*; it is {size}$"):
        Devices(jax.devices()[:1]).batch_size(size)


@pytest.mark.parametrize(
    ("batch_size", "work", "sizes"),
    [
        (128, 1000, [128, 64, 32, 16]),
        (128, 231, [120, 60, 30, 15]),  # two batches of 120, not 128 and 103 in the place of 128
        (128, 20, [24, 12]),
        (128, 3, [8]),
        (7, 100, [7]),
        (250, 250, [250, 125, 63, 32]),
        (16, 0, [1]),
    ],
)
def test_sizes_hold_all_work_in_as_few_batches_of_equal_size(batch_size, work, sizes):
    assert Devices(jax.devices()[:1]).sizes(batch_size, work) == sizes
    assert sizes[0] <= batch_size
    assert -(-work // sizes[0]) == -(-work // batch_size)


def test_sizes_of_an_accelerator_are_halves_so_that_different_work_shares_its_programs():
    devices = Devices([GPU])
    assert [devices.sizes(512, work)[0] for work in (1000, 916, 500, 257, 256, 20, 1, 0)] == [
        512, 512, 512, 512, 256, 32, 1, 1,
    ]  # fmt: skip
    assert devices.sizes(100, 60) == [100, 50, 25, 13]


def test_sizes_are_multiples_of_the_devices():
    assert Devices(jax.devices()[:4]).sizes(250, 250) == [252, 128, 64, 32]
