import jax
import pytest

from advjax import models
from advjax.errors import InputError
from advjax.models import published


@pytest.mark.parametrize("name", published.names())
def test_every_entry_is_a_network(name):
    entry = published.teacher(name)
    module = models.create(entry.network, entry.num_classes, **entry.options)
    assert entry.data in ("cifar10", "cifar100", "mnist")
    assert (entry.threat == (None, None)) or entry.threat[0] in ("linf", "l2")
    assert entry.autoattack is None or 0 < entry.autoattack < entry.clean < 100
    assert entry.where.startswith("github.com/")
    assert all(source.strip() + ":" in published.__doc__ for source in entry.source.split(","))
    swish = entry.network.endswith("_swish")
    if swish and entry.data == "cifar100":
        assert module.mean == (0.5071, 0.4865, 0.4409)
    elif swish:
        assert module.mean == (0.4914, 0.4822, 0.4465)


def test_without_a_file_the_error_says_where_it_is():
    with pytest.raises(InputError, match=r"github\.com/yaodongyu/TRADES") as error:
        models.load_teacher("trades_wrn_34_10")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="trades_wrn_34_10"):
        models.load_teacher("trades_wrn_34")
    with pytest.raises(InputError, match=r"^num_classes is no option of teacher trades_mnist: its file decides"):
        models.load_teacher("trades_mnist", "none.pt", num_classes=3)


def test_options_reach_the_network(tmp_path):
    module = models.create("resnet20", 10, shortcut="pad", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    variables = models.init(module, jax.random.key(0), (32, 32, 3))
    models.save_torch(tmp_path / "w.safetensors", module, variables)
    loaded, same = models.load_teacher("akamaster_resnet20", tmp_path / "w.safetensors")
    assert loaded == module and jax.tree.structure(same) == jax.tree.structure(variables)
    other, _ = models.load_teacher("akamaster_resnet20", tmp_path / "w.safetensors", dtype="bfloat16", mean=(0, 0, 0))
    assert (other.dtype, other.mean, other.shortcut) == ("bfloat16", (0.0, 0.0, 0.0), "pad")


def test_a_line_for_each():
    lines = published.lines()
    assert len(lines) == len(published.names()) and not any("\n" in line for line in lines)
    found = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert found["trades_wrn_34_10"] == "wrn_34_10 cifar10 linf 0.031 clean 84.92 AutoAttack 53.08"
    assert found["akamaster_resnet56"] == "resnet56 cifar10 natural clean 93.39"
    assert found["trades_mnist"] == "small_cnn mnist linf 0.3 clean 99.48"
    assert found["carmon2019_wrn_28_10_extra"].endswith("AutoAttack 59.53, more data")
