import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from advjax import compiling
from advjax.models import layers
from advjax.models.convolution import FEW_CHANNELS, FEW_OUTPUTS, cured_convolution
from advjax.models.layers import BatchNorm, Conv, Linear, TrainMode


def norm_step(x, train, variables=None):
    layer = BatchNorm()
    variables = variables or layer.init(jax.random.key(0), x)
    y, new = layer.apply(variables, x, train, mutable=["batch_stats"])
    return y, new["batch_stats"]


def test_batchnorm_against_hand_computed_values():
    x = jnp.asarray([1.0, 2.0, 3.0, 6.0]).reshape(2, 2, 1, 1)
    y, stats = norm_step(x, True)
    # mean 3; squared deviations 4, 1, 0, 9: biased variance 14/4, unbiased 14/3
    np.testing.assert_allclose(y.ravel(), (np.array([1, 2, 3, 6]) - 3) / np.sqrt(3.5 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(stats["mean"], [0.1 * 3], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [0.9 + 0.1 * 14 / 3], rtol=1e-6)
    evaluated = BatchNorm().apply({"params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)}, "batch_stats": stats}, x)
    np.testing.assert_allclose(evaluated, (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5), rtol=1e-6)


def test_batchnorm_keeps_small_variances_beside_large_means():
    x = 1000.0 + 0.01 * jax.random.normal(jax.random.key(0), (64, 4, 4, 2))
    _, var, count = layers.batch_statistics(x, jnp.ones(64))
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=1e-3)
    assert count == 64 * 16


def test_batchnorm_in_bfloat16_keeps_float32_statistics():
    x = (5.0 + jax.random.normal(jax.random.key(0), (32, 3, 3, 2))).astype(jnp.bfloat16)
    layer = BatchNorm(dtype="bfloat16")
    y, new = layer.apply(layer.init(jax.random.key(0), x), x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-5)


def test_padding_rows_count_nothing():
    x = jax.random.normal(jax.random.key(0), (6, 3, 3, 2))
    padded = jnp.concatenate([x, 100 * jnp.ones((2, 3, 3, 2))])
    weight = jnp.asarray([1] * 6 + [0] * 2)
    y, stats = norm_step(x, True)
    y_padded, stats_padded = norm_step(padded, TrainMode(weight))
    np.testing.assert_allclose(y_padded[:6], y, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats_padded, stats)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 3)])
def test_gradient_of_batch_normalisation_is_the_automatic_one(shape):
    """With respect to images, scale and bias, of outputs and statistics, two rows of padding among the examples."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, target = 2.0 + jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    scale, bias = 1.0 + jax.random.normal(keys[2], (2, 3))
    weight = jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])

    def gradients(normalise):
        def loss(x, scale, bias):
            y, mean, var, _ = normalise(x, scale, bias, weight, None, 1e-5)
            return jnp.sum(jnp.sin(y) * target) + jnp.sum(mean**3) + jnp.sum(var**2)

        return jax.value_and_grad(loss, (0, 1, 2))(x, scale, bias)

    ours, automatic = gradients(layers.normalise_batch), gradients(layers.normalise_batch.fun)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, automatic)


def test_statistics_are_the_same_as_other_backends_sum_them():
    x, weight = jax.random.normal(jax.random.key(0), (5, 4, 3, 2)), jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0])
    here = layers.batch_statistics(x, weight)
    with compiling.target("gpu"):
        there = layers.batch_statistics(x, weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), there, here)


@pytest.mark.parametrize("jit", [False, True])
def test_statistics_stay_where_they_are_not_mutable(jit):
    x = jax.random.normal(jax.random.key(0), (6, 3, 3, 2))
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x)
    apply = jax.jit(lambda x: layer.apply(variables, x, True)) if jit else lambda x: layer.apply(variables, x, True)
    np.testing.assert_allclose(apply(x), norm_step(x, True, variables)[0], atol=1e-6)


def test_four_devices_equal_one():
    """Outputs, running statistics and gradients, with an unequal share of padding on every device."""
    x = jax.random.normal(jax.random.key(0), (8, 3, 3, 2)) * 3 + 1
    target = jax.random.normal(jax.random.key(1), x.shape)
    weight = jnp.asarray([1, 1, 1, 0, 0, 0, 1, 1])
    variables = {"params": {"scale": jnp.asarray([1.5, 0.5]), "bias": jnp.asarray([0.1, -0.2])}}
    variables["batch_stats"] = {"mean": jnp.asarray([0.3, 0.4]), "var": jnp.asarray([0.5, 2.0])}

    def loss(params, x, target, weight, axis_name):
        y, new = BatchNorm().apply(
            {**variables, "params": params}, x, TrainMode(weight, axis_name), mutable=["batch_stats"]
        )
        return jnp.sum(weight[:, None, None, None] * jnp.square(y - target)), new

    def step(x, target, weight):
        (_, new), (grads, x_grad) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            variables["params"], x, target, weight, "devices"
        )
        return new, lax.psum(grads, "devices"), x_grad

    shards = [v.reshape(4, 2, *v.shape[1:]) for v in (x, target, weight)]
    new, grads, x_grad = jax.pmap(step, axis_name="devices")(*shards)
    (_, one_new), (one_grads, one_x_grad) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        variables["params"], x, target, weight, None
    )
    for d in range(4):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[d], b, rtol=1e-5), (new, grads), (one_new, one_grads))  # noqa: B023
    np.testing.assert_allclose(x_grad.reshape(x.shape), one_x_grad, atol=1e-5)


def convolution_by_definition(x, kernel, stride, padding, groups, cotangent):
    """Output, input gradient and kernel gradient of a convolution in float64, one output pixel after the other."""
    x, kernel, cotangent = (np.asarray(v, np.float64) for v in (x, kernel, cotangent))
    size, inputs, outputs = kernel.shape[0], kernel.shape[2], kernel.shape[3] // groups
    low, high = padding
    padded = np.pad(x, ((0, 0), (low, high), (low, high), (0, 0)))
    y, padded_gradient, kernel_gradient = np.zeros(cotangent.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    for i, j, g in np.ndindex(*cotangent.shape[1:3], groups):
        rows, columns = (slice(k * stride, k * stride + size) for k in (i, j))
        into, out = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
        patch, g_out = padded[:, rows, columns, into], cotangent[:, i, j, out]
        y[:, i, j, out] = np.einsum("bhwi,hwio->bo", patch, kernel[..., out])
        padded_gradient[:, rows, columns, into] += np.einsum("bo,hwio->bhwi", g_out, kernel[..., out])
        kernel_gradient[..., out] += np.einsum("bo,bhwi->hwio", g_out, patch)
    return y, padded_gradient[:, low : low + x.shape[1], low : low + x.shape[2]], kernel_gradient


UNGROUPED = [
    (3, 1, (1, 1), (6, 5)),
    (3, 2, (1, 1), (6, 7)),
    (3, 2, (0, 1), (6, 8)),
    (3, 1, (0, 0), (6, 5)),
    (1, 2, (0, 0), (7, 8)),
    (4, 4, (0, 0), (8, 9)),
    (2, 3, (2, 0), (8, 7)),
    (3, 3, (1, 4), (7, 5)),
    (2, 1, (3, 2), (5, 6)),
]


@pytest.mark.parametrize(
    "kernel, stride, padding, size, groups, inputs, outputs",
    [
        *((*case, 1, inputs, 2) for case in UNGROUPED for inputs in (FEW_CHANNELS, FEW_CHANNELS + 1)),
        (3, 2, (4, 3), (7, 7), 2, 4, 6),
        (3, 1, (1, 1), (5, 6), 4, 4, 4),
        (3, 2, (1, 1), (5, 6), 4, 4, 4),
        (3, 1, (3, 1), (5, 5), 4, 4, 4),  # jaxlib 0.10.2 computes the ordinary gradient of this one wrongly
        (3, 2, (0, 1), (6, 6), 2, 2, 4),
        *((3, stride, (1, 1), (5, 6), 1, 4, FEW_OUTPUTS + 1) for stride in (1, 2)),
        *((3, stride, (1, 1), (5, 6), 1, FEW_OUTPUTS + 1, 2) for stride in (1, 2)),
        (1, 1, (0, 0), (3, 4), 1, 5, 2),
        (1, 2, (1, 0), (6, 7), 1, 5, 2),
    ],
)
def test_cured_convolution_is_a_convolution_with_its_gradients(kernel, stride, padding, size, groups, inputs, outputs):
    x = jax.random.normal(jax.random.key(0), (2, *size, inputs))
    w = jax.random.normal(jax.random.key(1), (kernel, kernel, inputs // groups, outputs))

    @jax.jit
    def cured(x, w):
        strides, pads = (stride, stride), (padding, padding)
        y, vjp = jax.vjp(lambda x, w: cured_convolution(x, w, strides, pads, groups), x, w)
        cotangent = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return cotangent, (y, *vjp(cotangent))

    cotangent, ours = cured(x, w)
    for value, reference in zip(ours, convolution_by_definition(x, w, stride, padding, groups, cotangent), strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-4)


@pytest.mark.parametrize("stride, padding", [(1, None), (2, 1), (2, (0, 1))])
def test_cured_convolution_under_transformations(stride, padding):
    layer, plain = Conv(4, 3, stride, padding), Conv(4, 3, stride, padding, forward_mode=True)
    x = jax.random.normal(jax.random.key(0), (8, 6, 6, 3))
    variables = layer.init(jax.random.key(1), x)

    def gradient(layer):
        return jax.grad(lambda x: jnp.sum(jnp.sin(layer.apply(variables, x))))

    expected = gradient(plain)(x)
    np.testing.assert_allclose(jax.jit(gradient(layer))(x), expected, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(gradient(layer))(x[:, None])[:, 0], expected, atol=1e-5)
    mapped = jax.pmap(gradient(layer))(x.reshape(4, 2, 6, 6, 3))
    np.testing.assert_allclose(mapped.reshape(x.shape), expected, atol=1e-5)

    def descend(layer):
        return jax.jit(lambda x: lax.fori_loop(0, 3, lambda _, x: x - 0.1 * gradient(layer)(x), x))(x)

    np.testing.assert_allclose(descend(layer), descend(plain), atol=1e-5)

    def curvature(layer):
        return jax.grad(lambda x: jnp.sum(jnp.square(gradient(layer)(x))))(x)

    np.testing.assert_allclose(curvature(layer), curvature(plain), atol=1e-4)


def test_forward_mode_needs_the_switch():
    x = jnp.ones((1, 4, 4, 2))
    variables = Conv(2).init(jax.random.key(0), x)
    assert jax.jvp(lambda x: Conv(2, forward_mode=True).apply(variables, x), (x,), (x,))[1].shape == (1, 4, 4, 2)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: Conv(2).apply(variables, x), (x,), (x,))

    def train(layer):
        variables = BatchNorm().init(jax.random.key(0), x)
        return jax.jvp(lambda x: layer.apply(variables, x, True, mutable=["batch_stats"])[0], (x,), (x,))[1]

    assert train(BatchNorm(forward_mode=True)).shape == x.shape
    with pytest.raises(TypeError, match="forward-mode"):
        train(BatchNorm())


def test_padding_of_strided_convolutions_is_symmetric():
    """PyTorch's padding 1 at stride 2 looks at rows -1, 0, 1 first; flax's 'SAME' would look at 0, 1, 2."""
    layer = Conv(1, 3, 2)
    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    assert layer.apply({"params": {"kernel": kernel}}, x)[0, 0, 0, 0] == kernel[1, 1, 0, 0]
    same = Conv(1, 3, 2, (0, 1))
    assert same.apply({"params": {"kernel": kernel}}, x)[0, 0, 0, 0] == kernel[0, 0, 0, 0]


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 7, 2)])
def test_max_pool(shape):
    import flax.linen as nn

    x = jnp.round(jax.random.normal(jax.random.key(0), shape))  # many are equal: the first takes the gradient
    np.testing.assert_array_equal(layers.max_pool_2x2(x), nn.max_pool(x, (2, 2), (2, 2)))
    ours = jax.grad(lambda x: jnp.sum(jnp.square(layers.max_pool_2x2(x))))(x)
    theirs = jax.grad(lambda x: jnp.sum(jnp.square(nn.max_pool(x, (2, 2), (2, 2)))))(x)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.isnan(layers.max_pool_2x2(x.at[0, 0, 0, 0].set(jnp.nan))[0, 0, 0, 0])
    assert np.isnan(layers.max_pool_2x2(x.at[0, 1, 1, 0].set(jnp.nan))[0, 0, 0, 0])


def test_initial_scale_is_pytorch_s():
    conv = Conv(256, use_bias=True).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]
    bound = (9 * 64) ** -0.5
    assert 0.99 * bound < jnp.abs(conv["kernel"]).max() <= bound
    np.testing.assert_allclose(conv["kernel"].std(), bound / 3**0.5, rtol=0.02)
    assert 0.9 * bound < jnp.abs(conv["bias"]).max() <= bound
    linear = Linear(128).init(jax.random.key(0), jnp.zeros((1, 400)))["params"]
    np.testing.assert_allclose(linear["kernel"].std(), 400**-0.5 / 3**0.5, rtol=0.02)
    assert 0.9 / 20 < jnp.abs(linear["bias"]).max() <= 1 / 20
    he = Conv(256, kernel_init=layers.he_fan_out).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]
    np.testing.assert_allclose(he["kernel"].std(), (2 / (9 * 256)) ** 0.5, rtol=0.02)
