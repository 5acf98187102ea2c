"""Networks of other frameworks, trained, attacked and found by name."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from advjax import attacks, models, parallel
from advjax.errors import InputError
from advjax.methods import BMTARD, PGDAT, TrainingAttack
from advjax.models.layers import TrainMode
from tests.helpers import CLASSES, SHAPE, Run, ToyNet, distance, toy_data
from tests.methods.by_hand import variables as toy_variables
from tests.models.outside_nets import EquinoxNet, NNXNet, haiku_function

ATTACK = TrainingAttack(eps=0.02, step_size=0.02, steps=1)
HERE = "tests.models.outside_nets"
NAMES = {"linen": "LinenNet", "nnx": "NNXNet", "equinox": "EquinoxNet", "haiku": "haiku_net"}
TEACHERS = {"clean_teacher": toy_variables(11), "robust_teacher": toy_variables(12)}


def make(kind, **options):
    return models.create(f"{HERE}:{NAMES[kind]}", CLASSES, **options)


def own_logits(kind, variables, x):
    """What the framework itself computes in evaluation."""
    if kind == "nnx":
        model = make(kind).model_of(variables)
        model.eval()
        return model(x)
    if kind == "equinox":
        model, state = make(kind).model_of(variables)
        model = eqx.nn.inference_mode(model)
        one = lambda image: model(image.transpose(2, 0, 1), state, None)[0]  # noqa: E731
        return jax.vmap(one, axis_name="batch")(x)
    if kind == "haiku":
        # Its counters are whole numbers, which a mean over devices would not leave so.
        state = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.astype(jnp.int32) if "counter" in str(path) else leaf, variables["batch_stats"]
        )
        return haiku_function(CLASSES).apply(variables["params"], state, None, x, False)[0]
    return make(kind).apply(variables, x)


@pytest.mark.parametrize("kind", NAMES)
def test_a_foreign_network_is_trained_and_attacked(kind):
    """PGD-AT on one device: the loss falls, statistics move, one program, and the logits are the framework's own."""
    traces = []

    class Counted(PGDAT):
        def loss(self, *inputs):
            traces.append(1)
            return super().loss(*inputs)

    run = Run(Counted(ATTACK), modules={"model": make(kind)}, data=toy_data(8), optimizer=optax.sgd(0.05, 0.9)).step()
    first, once = run.metrics["loss"], len(traces)
    before = run.state
    run.step(8)
    assert run.metrics["loss"] < first and len(traces) == once
    assert distance(before.stats, run.state.stats) > 1e-4
    assert jax.tree.structure(before) == jax.tree.structure(run.initial)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(run.state.stats)} == {"float32"}

    variables = {"params": run.state.params["model"], "batch_stats": run.state.stats["model"]}
    x = jax.random.uniform(jax.random.key(1), (6, *SHAPE))
    f = models.logits_fn(make(kind), variables)
    np.testing.assert_array_equal(f(x), own_logits(kind, variables, x))
    y = jnp.argmax(f(x), 1)
    x_adv = attacks.pgd(f, jax.random.key(2), x, y, norm="linf", eps=0.3, step_size=0.1, steps=3)
    assert jnp.mean(jnp.take_along_axis(f(x_adv), y[:, None], 1)) < jnp.mean(jnp.take_along_axis(f(x), y[:, None], 1))


@pytest.mark.parametrize("kind", NAMES)
def test_a_foreign_network_is_b_mtard_s_student_on_two_devices(kind):
    """Devices agree in parameters and statistics, each having seen its own half of the batch."""
    modules = {"student": make(kind), "clean_teacher": ToyNet(), "robust_teacher": ToyNet()}
    run = Run(BMTARD(ATTACK), modules=modules, frozen=TEACHERS, devices=2, epochs=10).step(2)
    assert np.isfinite(run.metrics["loss"]) and distance(run.initial.stats, run.state.stats) > 1e-4
    first, second = (jax.tree.map(lambda leaf, i=i: np.asarray(leaf.addressable_data(i)), run._state) for i in range(2))
    assert distance((first.params, first.stats), (second.params, second.stats)) == 0.0


@pytest.mark.parametrize("kind", NAMES)
def test_equal_arguments_make_equal_networks_by_name(kind):
    module = make(kind, width=3)
    name, options = models.describe(module)
    assert name == f"{HERE}:{NAMES[kind]}" and options["width"] == 3
    again = models.create(name, CLASSES, **options)
    assert jax.tree.structure(models.variable_shapes(again, SHAPE)) == jax.tree.structure(
        models.variable_shapes(module, SHAPE)
    )
    if kind != "haiku":
        assert again == module and hash(again) == hash(module) and module != make(kind)
    assert models.options(name)["width"] == 4 and "num_classes" not in models.options(name)
    assert models.is_stochastic(module) == (kind != "haiku")
    # A run always says its precision.
    assert models.create(name, CLASSES, dtype="float32", **options).num_classes == CLASSES
    with pytest.raises(InputError, match=f"unknown option of network {HERE}:{NAMES[kind]} 'dtype'"):
        make(kind, dtype="bfloat16")


def test_existing_models_give_their_variables():
    """What was trained elsewhere can be taken over, and what was trained here handed back."""
    x = jax.random.uniform(jax.random.key(1), (5, *SHAPE))
    module, model = make("nnx"), NNXNet(CLASSES, rngs=nnx.Rngs(7))
    taken = module.variables_of(model)
    model.eval()
    np.testing.assert_array_equal(models.logits_fn(module, taken)(x), model(x))
    assert distance(module.variables_of(module.model_of(taken)), taken) == 0.0

    module, (model, state) = make("equinox"), eqx.nn.make_with_state(EquinoxNet)(CLASSES, key=jax.random.key(7))
    taken = module.variables_of(model, state)
    back, kept = module.model_of(taken)
    assert back.activation is jax.nn.relu and back.order.dtype == model.order.dtype
    assert distance(module.variables_of(back, kept), taken) == 0.0
    np.testing.assert_array_equal(back.conv.weight, model.conv.weight)
    np.testing.assert_array_equal(taken["batch_stats"]["buffers"]["order"], model.order)


def test_dropout_follows_the_key():
    mode, x = TrainMode(), jnp.ones((4, *SHAPE))
    for kind in ("nnx", "equinox"):
        module = make(kind)
        variables = models.init(module, jax.random.key(0), SHAPE)
        one, same, other = (
            models.training_forward(module, variables, x, mode, jax.random.key(key))[0] for key in (1, 1, 2)
        )
        assert distance(one, same) == 0.0 < distance(one, other)


def test_a_pair_of_functions():
    """A linear network with a counter for state, on two devices."""

    def init(key, x):
        return [(0.1 * jax.random.normal(key, (x[0].size, CLASSES)),)], {"calls": jnp.zeros((), jnp.int32)}

    def apply(params, state, x, train, key):
        return x.reshape(len(x), -1) @ params[0][0], {"calls": state["calls"] + train}

    net = models.from_init_apply(init, apply, num_classes=CLASSES, stochastic=False)
    assert net == models.from_init_apply(init, apply, num_classes=CLASSES, stochastic=False)
    for batch_norm in ("global", "device"):
        run = Run(PGDAT(ATTACK), modules={"model": net}, devices=2, batch_norm=batch_norm).step(2)
        assert run.state.stats["model"]["calls"] == 4.0  # two forwards a step
        assert list(run.state.params["model"]["0"]) == ["0"]
    with pytest.raises(InputError, match="no name"):
        models.describe(net)


def test_statistics_of_a_foreign_linen_network_are_the_same_on_all_devices():
    module = make("linen")
    variables = models.init(module, jax.random.key(0), SHAPE)

    def statistics(x):
        return models.training_forward(module, variables, x, TrainMode(None, parallel.AXIS), jax.random.key(0))[1]

    x = jax.random.uniform(jax.random.key(1), (2, 4, *SHAPE))
    both = jax.pmap(statistics, axis_name=parallel.AXIS, devices=jax.devices()[:2])(x)
    each = [module.apply(variables, half, train=True, mutable=["batch_stats"])[1]["batch_stats"] for half in x]
    for i in range(2):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], both)
        assert distance(mine, jax.tree.map(lambda a, b: (a + b) / 2, *each)) < 1e-6


@pytest.mark.parametrize(
    "name, options, message",
    [
        (f"{HERE}:NNXNett", {}, "did you mean NNXNet"),
        (f"{HERE}:NNXNet", {"widht": 4}, "option of network .*did you mean width"),
        (f"{HERE}:EquinoxNet", {"key": 4}, "unknown option"),
        (f"{HERE}:NNXNet", {"width": -1}, "cannot be made"),
        (f"{HERE}:raises", {"depth": [1, 2]}, r"RuntimeError: no depth \(1, 2\)"),
        (f"{HERE}:LinenNet", {"kernels": {"a": 1}}, "cannot be made"),
        (f"{HERE}:not_a_network", {}, r"gives a dict, not a linen module or an adapter \(advjax.models.from_nnx"),
        (f"{HERE}:bare", {}, "takes no argument num_classes"),
        (f"{HERE}:HERE", {}, "no.*HERE|unknown object"),
        ("math:pi", {}, "is a float"),
        ("builtins:dict", {}, "is no network"),
        ("os:system", {}, "is no network"),
    ],
)
def test_a_wrong_network_is_one_line(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        models.create(name, 3, **options)
    assert "\n" not in str(error.value)
