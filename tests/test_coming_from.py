"""The page for those who come from elsewhere: its advjax halves run."""

import functools
import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advjax
from advjax import runs
from tests.commands import ROOT

PAGE = (ROOT / "docs/coming-from.md").read_text()
OURS = re.findall(r"```python\n# advjax\n(.*?)```", PAGE, re.DOTALL)
SHAPE = (4, 4, 3)


class Wavy(nn.Module):
    """So wavy that the first attack breaks everything, and so cheap that AutoAttack costs what it compiles."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(10)(jnp.sin(60 * x).reshape(len(x), -1))


@pytest.fixture
def world(tmp_path, monkeypatch):
    """What the page takes for granted. Teachers and trained runs would be a download and an hour: a network instead."""
    module, rng = Wavy(), np.random.default_rng(0)
    network = module, advjax.models.init(module, jax.random.key(0), SHAPE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for part, count in (("train", 10), ("test", 1200)):
        image = rng.integers(0, 256, (count, *SHAPE), np.uint8)
        np.savez(tmp_path / f"data/{part}.npz", image=image, label=np.arange(count) % 10)
    finished = []
    monkeypatch.setattr(advjax, "load_teacher", lambda name, path: advjax.models.published.teacher(name) and network)
    monkeypatch.setattr(advjax, "load_run", lambda folder: network)
    monkeypatch.setattr(runs, "finish", lambda config, folder: finished.append(runs.read(config)))
    images = jnp.asarray(rng.uniform(size=(8, *SHAPE)), jnp.float32)
    logits_fn = advjax.logits_fn(*network)
    labels = jnp.argmax(logits_fn(images), -1)
    world = {"advjax": advjax, "functools": functools, "key": jax.random.key(0), "logits_fn": logits_fn}
    world |= {"images": images, "labels": labels, "x_test": images, "y_test": labels, "finished": finished}
    return world | {"target_labels": (labels + 1) % 10}


def test_every_block_runs_and_does_what_the_page_says(world):
    assert len(OURS) == 6 and PAGE.count("```python") == 11
    robustbench, autoattack, torchattacks, told, foolbox, mair = OURS
    exec(robustbench, world)
    measured = world["result"]
    assert measured.title.startswith(
        "cifar10: the first 1,000 of 1,200 test images in their stored order; linf, eps = 8/255;"
    )
    assert measured.robust == 0 < measured.clean < 0.3
    with np.load("data/test.npz") as test:
        right = np.argmax(world["logits_fn"](test["image"][:1000] / 255), -1) == test["label"][:1000]
    assert measured.clean == pytest.approx(right.mean())

    exec(autoattack, world)
    assert list(world["result"].accuracy) == ["clean", "apgd_ce", "apgd_t"]

    def correct(x, y):
        return float(advjax.losses.correct(world["logits_fn"](x), y).mean())

    for line in torchattacks.splitlines():
        exec(line, world)
        if "targeted=True" in line:
            assert correct(world["adv"], world["target_labels"]) > 0
        elif line.startswith("adv = "):
            assert correct(world["adv"], world["labels"]) < 1
    exec(told, world)
    assert world["found"].success.any()
    exec(foolbox, world)
    assert world["robust_accuracy"] == sorted(world["robust_accuracy"], reverse=True)
    assert isinstance(world["module"], nn.Module) and np.isfinite(world["nearest"].distance).all()
    exec(mair, world)
    (config,) = world["finished"]
    assert isinstance(config.method, Mapping) and config.method["awp_gamma"] == 5e-3 and config.epochs == 200
