"""Attention: JAX's own values and gradients, and no product of float32 in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from advjax.models import vit


def loss(attention):
    def of(query, key, value):
        return jnp.sum(jnp.sin(3 * attention(query, key, value).astype(jnp.float32)))

    return of


def inputs(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, 7, 3, 4)).astype(dtype) for key in keys]


@pytest.mark.parametrize(("dtype", "exact"), [("float32", 2e-6), ("bfloat16", 0.06)])
def test_attention_is_jaxs_own(dtype, exact):
    three = inputs(dtype)
    ours, theirs = (
        jax.value_and_grad(loss(each), (0, 1, 2))(*three) for each in (vit.attention, jax.nn.dot_product_attention)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one.astype(np.float32), other.astype(np.float32), atol=exact, rtol=exact)
    _, along = jax.jvp(loss(vit.attention), three, three)
    expected = sum(jnp.vdot(x, g) for x, g in zip(three, ours[1], strict=True))
    np.testing.assert_allclose(along, expected.astype(np.float32), rtol=10 * exact, atol=10 * exact)


def test_in_bfloat16_all_products_are_of_bfloat16():
    jaxpr = jax.make_jaxpr(jax.grad(loss(vit.attention), (0, 1, 2)))(*inputs("bfloat16"))
    products = list(walk(jaxpr.jaxpr))
    assert len(products) >= 6 and {v.aval.dtype.name for each in products for v in each.invars} == {"bfloat16"}


def walk(jaxpr):
    """All matrix products in it."""
    for each in jaxpr.eqns:
        if each.primitive.name == "dot_general":
            yield each
        for inner in jaxprs_in_params(each.params):
            yield from walk(inner)
