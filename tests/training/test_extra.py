"""Extra images in every batch, and images mixed with one another: what a step sees of them, wherever it runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax.data import Split, augment, mixed_order, partners, read_extra
from advjax.errors import InputError
from advjax.methods import MART, PGDAT, SGLR, Natural, State, TrainingAttack, create
from advjax.training import StepConfig, Trainer, average
from tests.helpers import CLASSES, SHAPE, ToyNet, distance, toy_data

TRAIN, RATIO, BATCH, SEED = Split(*toy_data(22)[:2]), 0.5, 8, 3
STEPS = 3  # an epoch: ceil(22 / 8)


@dataclasses.dataclass(frozen=True)
class Counting(Natural):
    """Remembers of every example its label plus how often it was met, and says whether extra ones were ever met."""

    def init_state(self, labels, num_classes):
        return State(per_example=jnp.asarray(np.eye(num_classes)[labels] @ np.arange(num_classes), jnp.float32))

    def new_state(self, context, adversarial, logits):
        return State(per_example=context.state.per_example + 1.0)

    def example_losses(self, context, logits, target):
        values, _ = super().example_losses(context, logits, target)
        fresh = context.state.per_example == context.batch.label
        return values, {"fresh": context.metric(jnp.where(context.batch.id >= len(TRAIN.label), fresh, True))}


def trainer(devices):
    config = StepConfig(CLASSES, epochs=3, seed=SEED, augment="flip")
    return Trainer(Counting(), {"model": ToyNet()}, optax.sgd(0.1, 0.9), config, jax.devices()[:devices])


@pytest.fixture(scope="module")
def extra(tmp_path_factory):
    """Thirty further images, mapped from a file."""
    path = tmp_path_factory.mktemp("extra") / "extra.npz"
    image, label, _ = toy_data(30, seed=9)
    np.savez(path, image=image, pseudo=label[::-1])
    return read_extra(path, SHAPE, CLASSES, "pseudo")


@pytest.fixture(scope="module")
def course(extra):
    """(state on the host, metrics) after every step on one device, the state before the first one in front."""
    on_one = trainer(1)
    states = [(jax.device_get(on_one.init(SHAPE, TRAIN.label)), {})]
    steps = on_one.steps(on_one.place(states[0][0]), TRAIN, BATCH, extra=extra, ratio=RATIO)
    return states + [(jax.device_get(state), average(metrics)) for _, state, metrics in steps]


def test_a_step_takes_its_share_of_extra_images(extra, course):
    """The first batch, put together by hand, makes the same step."""
    assert isinstance(extra.image, np.memmap)
    index = mixed_order(SEED, 0, 22, 30, BATCH, RATIO)[0]
    image, label = (np.concatenate(pair) for pair in zip(TRAIN, extra, strict=True))
    place = np.where(index >= 22, 22 + np.cumsum(index >= 22).reshape(index.shape) - 1, index)[0]
    # What flips is drawn by the place among the epoch's examples.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), 0), 0)
    batch = augment(key, jnp.asarray(image[index[0]]), jnp.asarray(place), "flip")
    state, metrics = trainer(1).step(course[0][0], batch, label[index[0]], ids=place)
    assert distance(jax.device_get(state).params, course[1][0].params) < 1e-6
    assert abs(average(metrics)["loss"] - course[1][1]["loss"]) < 1e-5


def test_only_the_training_set_is_remembered(course):
    """Every example's label plus the number of batches that it was in; extra examples are new every time."""
    met = np.zeros(22)
    for epoch in range(3):
        for row in mixed_order(SEED, epoch, 22, 30, BATCH, RATIO)[0]:
            met[np.unique(row[row < 22])] += 1
    assert len(course) == 1 + 3 * STEPS and met.sum() > 22
    np.testing.assert_array_equal(course[-1][0].method.per_example, TRAIN.label + met)
    assert all(metrics["fresh"] == 1.0 for _, metrics in course[1:])


def test_four_devices_and_a_resumed_run_are_one_device_through(extra, course):
    on_four = trainer(4)
    for first in (0, 4):
        last = None
        given = on_four.place(course[first][0])
        for step, state, _ in on_four.steps(given, TRAIN, BATCH, first=first, extra=extra, ratio=RATIO):
            last = step, state
        assert last[0] == 3 * STEPS
        assert distance(jax.device_get(last[1]), course[-1][0]) < 1e-6
    on_one = trainer(1)
    steps = on_one.steps(on_one.place(course[4][0]), TRAIN, BATCH, first=4, extra=extra, ratio=RATIO)
    *_, (_, state, _) = steps
    assert distance(jax.device_get(state), course[-1][0]) == 0.0


@dataclasses.dataclass(frozen=True)
class Looking(PGDAT):
    """Compares a mixed image's pixels, each of which tells its class, with the label."""

    def example_losses(self, context, logits, target):
        values, _ = super().example_losses(context, logits, target)
        pixels = jnp.round(context.batch.image * 255 / 80).astype(int)
        shares = jnp.mean(jax.nn.one_hot(pixels, CLASSES), (1, 2, 3))
        larger = jnp.take_along_axis(target, context.batch.label[:, None], 1)[:, 0] == jnp.max(target, 1)
        return values, {
            "apart": context.metric(jnp.max(jnp.abs(shares - target), 1)),
            "mixed": context.metric(jnp.max(target, 1) < 1.0),
            "larger": context.metric(larger),
        }


def test_cutmix_mixes_the_label_as_it_mixes_the_image():
    label = np.arange(40, dtype=np.int32) % CLASSES
    train = Split(np.broadcast_to(80 * label[:, None, None, None], (40, *SHAPE)).astype(np.uint8), label)
    ends = []
    for devices in (1, 4):
        config = StepConfig(CLASSES, seed=SEED, augment="flip+cutmix")
        method = Looking(TrainingAttack(steps=1), clean_statistics=False)
        on = Trainer(method, {"model": ToyNet()}, optax.sgd(0.1), config, jax.devices()[:devices])
        steps = [(jax.device_get(s), average(m)) for _, s, m in on.steps(on.init(SHAPE, label), train, 16)]
        ends.append(steps[-1][0])
        assert len(steps) == 3
        for _, metrics in steps:
            assert metrics["apart"] < 1e-6 and metrics["larger"] == 1.0 and 0 < metrics["mixed"] < 1
    assert distance(*ends) < 1e-6
    index = np.arange(16, dtype=np.int32).reshape(2, 8)
    paired = partners(SEED, 0, index)
    assert (np.sort(paired, 1) == index).all() and not (paired == partners(SEED, 1, index)).all()


@pytest.mark.parametrize("method", [MART(), SGLR(), create("pgd_at_gairat"), create("consistency_at")])
def test_cutmix_is_refused_where_labels_are_classes(method):
    modules = {name: ToyNet() for name in method.trained}
    with pytest.raises(InputError, match=r"augment has cutmix, which mixes labels, and .* reads them as classes"):
        Trainer(method, modules, optax.sgd(0.1), StepConfig(augment="crop+cutmix50"))
    soft = create("trades_awp_ema")
    Trainer(
        soft, {name: ToyNet() for name in (*soft.trained, *soft.averaged)}, optax.sgd(0.1), StepConfig(augment="cutmix")
    )
