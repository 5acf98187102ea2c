import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import models
from advjax.errors import InputError

COUNTS = [
    ("resnet18", 10, 11_173_962),
    ("resnet18", 100, 11_220_132),
    ("resnet18_lbgat", 10, 11_173_962),
    ("resnet18_lbgat", 100, 11_220_132),
    ("resnet34", 10, 21_282_122),
    ("resnet50", 10, 23_520_842),
]


@pytest.mark.parametrize("name, classes, count", COUNTS)
def test_parameter_counts(name, classes, count):
    assert models.parameter_count(models.create(name, classes), (32, 32, 3)) == count


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
    ],
)
def test_bad_arguments_get_one_line(name, classes, options, message):
    with pytest.raises(InputError, match=message) as error:
        models.create(name, classes, **options)
    assert "\n" not in str(error.value)


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
