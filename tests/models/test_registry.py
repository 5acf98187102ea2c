import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import models
from advjax.errors import InputError

COUNTS = [
    ("resnet18", 10, {}, 11_173_962),
    ("resnet18", 100, {}, 11_220_132),
    ("resnet18_lbgat", 10, {}, 11_173_962),
    ("resnet18_lbgat", 100, {}, 11_220_132),
    ("resnet34", 10, {}, 21_282_122),
    ("resnet50", 10, {}, 23_520_842),
    ("preact_resnet18", 10, {}, 11_172_170),
    ("preact_resnet18", 100, {}, 11_218_340),
    ("preact_resnet34", 10, {}, 21_280_330),
    ("wrn_34_10", 10, {}, 46_160_474),
    ("wrn_34_10", 100, {}, 46_218_164),
    ("wrn_28_10", 10, {}, 36_479_194),
    ("wrn_28_10", 100, {}, 36_536_884),
    ("wrn_34_20", 10, {}, 184_531_674),
    ("wrn_22_6_swish", 100, {}, 9_693_108),
    ("wrn_28_10_swish", 10, {}, 36_479_194),
    ("wrn_28_10_swish", 100, {}, 36_536_884),
    ("wrn_70_16_swish", 10, {}, 266_796_506),
    ("wrn_70_16_swish", 100, {}, 266_888_756),
    ("resnet20", 10, {}, 272_474),
    ("resnet32", 10, {}, 466_906),
    ("resnet44", 10, {}, 661_338),
    ("resnet56", 10, {}, 855_770),
    ("resnet20", 10, {"shortcut": "pad"}, 269_722),
    ("resnet32", 10, {"shortcut": "pad"}, 464_154),
    ("resnet44", 10, {"shortcut": "pad"}, 658_586),
    ("resnet56", 10, {"shortcut": "pad"}, 853_018),
    ("mobilenet_v2", 10, {}, 2_296_922),
    ("mobilenet_v2", 100, {}, 2_412_212),
    ("small_cnn", 10, {}, 312_202),
    # ImageNet's, as torchvision and timm have them
    ("resnet50", 1000, {"stem": "imagenet"}, 25_557_032),
    ("vit_b_16", 1000, {}, 86_567_656),
    ("convnext_t", 1000, {}, 28_589_128),
]


def image_shape(name):
    return {"small_cnn": (28, 28, 1), "tiny_cnn": (8, 8, 1), "vit_b_16": (224, 224, 3)}.get(name, (32, 32, 3))


@pytest.mark.parametrize("name, classes, options, count", COUNTS)
def test_parameter_counts(name, classes, options, count):
    module = models.create(name, classes, **options)
    assert models.parameter_count(module, image_shape(name)) == count


@pytest.mark.parametrize(
    "name, dtype", [*((name, "bfloat16") for name in models.names()), ("resnet18", "float32"), ("vit", "float32")]
)
def test_shapes_and_dtypes_of_every_network(name, dtype):
    """Logits, parameters and statistics are float32 whatever the computation's dtype; training returns statistics."""
    shape = image_shape(name)
    module = models.create(name, 7, dtype=dtype)
    variables = models.variable_shapes(module, shape)
    x = jax.ShapeDtypeStruct((4, *shape), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def train(variables, x):
        rngs = {"dropout": jax.random.key(0)}
        return module.apply(variables, x, models.TrainMode(jnp.ones(4)), mutable=["batch_stats"], rngs=rngs)

    logits, new = jax.eval_shape(train, variables, x)
    assert (logits.shape, logits.dtype) == ((4, 7), jnp.float32)
    assert jax.tree.structure(new.get("batch_stats", {})) == jax.tree.structure(variables["batch_stats"])
    hidden, logits = jax.make_jaxpr(lambda v, x: models.logits_fn(module, v)(x), return_shape=True)(variables, x)
    assert (logits.shape, logits.dtype) == ((4, 7), jnp.float32)
    used = {str(eqn.outvars[0].aval.dtype) for eqn in _convolutions(hidden.jaxpr)}
    assert used == {dtype}, f"convolutions computed in {used}"


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet18", "wrn_22_6_swish", "mobilenet_v2", "small_cnn"])
def test_no_activation_changes_its_layout(name):
    """NHWC throughout: what forward and input gradient transpose are kernels, never anything of the batch's size."""
    module, batch = models.create(name, 10), 37
    variables = models.variable_shapes(module, image_shape(name))
    x = jax.ShapeDtypeStruct((batch, *image_shape(name)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x, v: module.apply(v, x).sum())).lower(x, variables).as_text()
    transposed = [line for line in gradient.splitlines() if "stablehlo.transpose" in line]
    assert transposed and not [line for line in transposed if f"tensor<{batch}x" in line]


def _convolutions(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn
        for inner in _inner(eqn):
            yield from _convolutions(inner)


def _inner(eqn):
    for value in eqn.params.values():
        for candidate in value if isinstance(value, (tuple, list)) else (value,):
            candidate = getattr(candidate, "jaxpr", candidate)
            if hasattr(candidate, "eqns"):
                yield candidate


def test_equal_arguments_make_equal_modules():
    a = models.create("resnet18", 10, mean=[0.5, 0.5, 0.5], std=(0.2, 0.2, 0.2), dtype="bfloat16")
    b = models.create("resnet18", 10, mean=(0.5, 0.5, 0.5), std=[0.2, 0.2, 0.2], dtype=jnp.bfloat16)
    assert a == b and hash(a) == hash(b)
    assert a != models.create("resnet18", 10)


@pytest.mark.parametrize(
    "name, classes, options, message",
    [
        ("resnet81", 10, {}, "resnet18"),
        ("resnet18", 10, {"widht": 4}, "width"),
        ("resnet18", 0, {}, "num_classes"),
        ("resnet18", 10, {"dtype": "bfloat17"}, "bfloat17"),
        ("resnet18", 10, {"dtype": "int32"}, "int32"),
        ("resnet18", 10, {"std": (0.0, 1.0, 1.0)}, "std"),
        ("resnet18", 10, {"mean": 0.5}, "mean"),
        ("resnet18", 10, {"width": "wide"}, "width"),
        ("resnet18", 10, {"width": 1.5}, "width"),
        ("resnet18", 10, {"width": -1}, "width"),
        ("resnet18", 10, {"bottleneck": 1}, "bottleneck"),
        ("resnet18", 10, {"blocks": 2}, "blocks"),
        ("mobilenet_v2", 10, {"width": True}, "width"),
    ],
)
def test_bad_arguments_get_one_line(name, classes, options, message):
    with pytest.raises(InputError, match=message) as error:
        models.create(name, classes, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, options, shape, message",
    [
        ("resnet18", {"mean": (0.5,), "std": (0.5,)}, (32, 32, 3), "channels"),
        ("resnet18", {"shortcut": "padd"}, (32, 32, 3), "pad"),
        ("resnet50", {"stem": "imagenett"}, (32, 32, 3), "imagenet"),
        ("convnext_t", {"stem": "con"}, (32, 32, 3), "conv"),
        ("convnext_t", {}, (48, 32, 3), "multiples of 32"),
        ("preact_resnet18", {"shortcut_from": "row"}, (32, 32, 3), "raw"),
        ("wrn_28_10", {"depth": 29}, (32, 32, 3), "depth"),
        ("wrn_28_10", {"activation": "swosh"}, (32, 32, 3), "swish"),
        ("vit", {"heads": 5}, (32, 32, 3), "heads"),
        ("vit", {"patch": 5}, (32, 32, 3), "patch"),
    ],
)
def test_options_that_a_network_cannot_take(name, options, shape, message):
    with pytest.raises(InputError, match=message) as error:
        models.variable_shapes(models.create(name, 10, **options), shape)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, options, path, scale",
    [
        # PyTorch's default is uniform with variance 1 / (3 fan_in); He's normal has 2 / fan
        ("resnet18", {}, ("layer3_0", "conv1", "kernel"), (3 * 9 * 128) ** -0.5),
        ("resnet18", {}, ("linear", "bias"), (3 * 512) ** -0.5),
        ("mobilenet_v2", {}, ("layers_16", "conv2", "kernel"), (3 * 9) ** -0.5),
        ("preact_resnet18", {}, ("layer4_1", "conv2", "kernel"), (3 * 9 * 512) ** -0.5),
        ("wrn_28_10", {"width": 2}, ("block3_1", "conv2", "kernel"), (2 / (9 * 128)) ** 0.5),
        ("wrn_28_10_swish", {"width": 2}, ("block2_0", "shortcut", "kernel"), (2 / 64) ** 0.5),
        ("small_cnn", {}, ("conv4", "kernel"), (2 / (9 * 64)) ** 0.5),
    ],
)
def test_initial_scale(name, options, path, scale):
    module = models.create(name, 100, **options)

    @jax.jit  # compiles the one leaf only
    def leaf(key):
        params = models.init(module, key, image_shape(name))["params"]
        return functools.reduce(lambda tree, part: tree[part], path, params)

    leaf = leaf(jax.random.key(0))
    np.testing.assert_allclose(np.std(leaf), scale, rtol=0.12 if leaf.size < 1000 else 0.03)


def test_small_cnn_starts_with_zero_logits_and_wrn_with_zero_biases():
    module = models.create("small_cnn", 10)
    variables = models.init(module, jax.random.key(0), (28, 28, 1))
    assert not np.any(module.apply(variables, jnp.ones((1, 28, 28, 1))))
    module = models.create("wrn_28_10", 10, depth=10, width=1)
    assert not np.any(models.init(module, jax.random.key(0), (32, 32, 3))["params"]["fc"]["bias"])


def test_init_is_a_function_of_the_key():
    module = models.create("tiny_cnn", 10, width=4)
    one, same, other = (models.init(module, jax.random.key(seed), (8, 8, 1)) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, same))
    assert not np.array_equal(one["params"]["conv1"]["kernel"], other["params"]["conv1"]["kernel"])
    raw = models.init(module, jax.random.PRNGKey(0), (8, 8, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, raw))


def test_logits_fn_compiles_once_for_equal_modules():
    compiled = []

    @jax.jit
    def logits(function, x):
        compiled.append(1)
        return function(x)

    x = jnp.ones((2, 8, 8, 1))
    outputs = []
    for seed in range(3):
        module = models.create("tiny_cnn", 10, width=4)
        function = models.logits_fn(module, models.init(module, jax.random.key(seed), (8, 8, 1)))
        outputs.append(logits(function, x))
        np.testing.assert_allclose(outputs[-1], function(x), atol=1e-5)
    assert len(compiled) == 1
    assert not np.allclose(outputs[0], outputs[1])


def test_normalisation_inside_the_network():
    plain = models.create("tiny_cnn", 10, width=4)
    normalised = models.create("tiny_cnn", 10, width=4, mean=(0.3, 0.4), std=(0.2, 0.5))
    variables = models.init(plain, jax.random.key(0), (8, 8, 2))
    x = jax.random.uniform(jax.random.key(1), (3, 8, 8, 2))
    expected = plain.apply(variables, (x - jnp.asarray([0.3, 0.4])) / jnp.asarray([0.2, 0.5]))
    np.testing.assert_allclose(normalised.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("name", models.names())
def test_describe_is_the_inverse_of_create(name):
    module = models.create(name, 7, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), dtype="bfloat16")
    found, options = models.describe(module)
    assert models.create(found, 7, **options) == module
    assert found == name and set(options) == {"mean", "std", "dtype"}


def test_a_network_says_whether_it_is_stochastic():
    """A training forward without a key for dropout fails exactly where a network says that it draws."""
    for name, options in [("small_cnn", {}), ("small_cnn", {"dropout": 0.0}), ("tiny_cnn", {}), ("vit", {})]:
        module = models.create(name, 10, **options)
        variables = models.variable_shapes(module, image_shape(name))

        def forward(variables, module=module, name=name):
            return module.apply(variables, jnp.ones((1, *image_shape(name))), train=True, mutable=["batch_stats"])

        if module.stochastic:
            with pytest.raises(flax.errors.InvalidRngError):
                jax.eval_shape(forward, variables)
        else:
            jax.eval_shape(forward, variables)
    assert models.create("small_cnn", 10).stochastic
