"""The recipes for ImageNet, on a folder of pictures of many sizes, with a tiny network."""

import numpy as np
import pytest
from PIL import Image

from advjax import runs
from advjax.configs import pgd_at, trades
from advjax.runs.display import Display
from advjax.runs.metrics import read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for part, count in (("train", 9), ("val", 2)):
        for label in range(2):
            (root / part / f"n{label}").mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (*rng.integers(18, 40, 2), 3), dtype=np.uint8)
                Image.fromarray(image).save(root / part / f"n{label}" / f"{i}.JPEG")
    return root


def toy(config, folder):
    """The recipe in three steps an epoch."""
    config.network.update({"name": "tiny_cnn", "width": 2, "stem": ""})
    config.data.update({"path": str(folder), "image_size": 16, "resize": 18, "validation": 0, "workers": 1})
    config.update({"epochs": 1, "batch_size": 8, "compilation_cache": "off", "devices": 1})
    config.attack.steps = 2
    config.validation.steps = 1
    config.log.update({"every_steps": 1, "tensorboard": False})
    config.evaluation.update({"protocol": "clean", "examples": 3})
    return config


@pytest.mark.parametrize("recipe", [pgd_at, trades])
def test_the_recipe_runs_at_toy_size(recipe, folder, tmp_path):
    config = toy(recipe.get_config("imagenet"), folder)
    report = runs.finish(config, tmp_path, Display(live=False))
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3] and all(
        np.isfinite(record["loss"]) for record in records
    )
    assert report["method"].endswith("_ema") and report["eps"] == pytest.approx(4 / 255)
    assert {row["n"] for row in report["results"]} == {3}
