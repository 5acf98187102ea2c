"""Extra images and CutMix as a config asks for them."""

import numpy as np
import pytest

from advjax import runs
from advjax.errors import InputError
from advjax.files import read_json
from advjax.runs.build import build

RNG = np.random.default_rng(0)


def config(method="natural", **fields):
    made = runs.default(method)
    made.data.update({"name": "digits", "augment": "none", "validation": 0, "examples": 200})
    made.data.extra.update(fields)
    made.network.update({"name": "tiny_cnn", "width": 4})
    made.batch_size, made.epochs, made.attack.eps = 100, 1, "0.2"
    made.log.tensorboard = False
    made.evaluation.update({"protocol": "clean", "examples": 40})
    return made


def file(path, shape=(8, 8, 1), classes=10):
    np.savez(path, image=RNG.integers(0, 256, (60, *shape), np.uint8), label=np.arange(60) % classes)
    return str(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "none.npz"}, r"^data.extra.path: .*none.npz: "),
        ({"path": "good.npz", "ratio": 0.0}, r"^data.extra.ratio is 0, which leaves no extra image in a batch of 100"),
        ({"path": "good.npz", "ratio": 0.001}, r"^data.extra.ratio is 0.001, which leaves no extra image"),
        ({"path": "good.npz", "ratio": 1.0}, r"^data.extra.ratio must be at least 0 and below 1, it is 1.0"),
        ({"path": "good.npz", "labels": "pseudo"}, r"looked for the arrays image and pseudo, found image, label"),
        ({"path": "large.npz"}, r"images are uint8 \[60, 9, 8, 1\]; allowed: uint8"),
        ({"path": "classes.npz"}, r"labels run from 0 to 10; allowed: 0\.\.9"),
    ],
)
def test_bad_extra_images_are_one_line_before_anything_is_written(tmp_path, fields, message):
    file(tmp_path / "good.npz"), file(tmp_path / "large.npz", (9, 8, 1)), file(tmp_path / "classes.npz", classes=11)
    made = config(**{"ratio": 0.5, **fields, "path": str(tmp_path / fields["path"])})
    with pytest.raises(InputError, match=message) as error:
        runs.finish(made, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_run_with_extra_images_is_bound_to_their_file(tmp_path):
    made = config(path=file(tmp_path / "extra.npz"), ratio=0.5)
    report = runs.finish(made, tmp_path / "run")
    assert not any("extra" in warning for warning in report["warnings"])
    assert read_json(tmp_path / "run", "data.json")["extra"] == 60
    made.evaluation.examples = 50  # no longer finished, so that its data are looked at again
    for path in (file(tmp_path / "other.npz"), ""):
        made.data.extra.path = path
        with pytest.raises(InputError, match=r"began on another extra set \(data.extra.path\)"):
            runs.finish(made, tmp_path / "run")


def test_a_recipe_without_its_extra_images_says_so():
    warnings = build(config("dm", ratio=0.7)).dataset.warnings
    assert warnings == ("data.extra.ratio is 0.7, but without data.extra.path there are no extra images",)
    made = config("dm", ratio=0.0)
    made.data.extra.labels = "pseudo"
    (warning,) = build(made).dataset.warnings
    assert warning.startswith("data.extra.labels is pseudo, but without")


def test_cutmix_is_refused_before_anything_is_read():
    made = config("mart")
    made.data.update({"augment": "crop+cutmix", "name": "nothing"})
    with pytest.raises(InputError, match=r"^data.augment has cutmix, .* and MART reads them as classes"):
        build(made)
