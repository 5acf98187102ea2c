"""What `load_torch` accepts and refuses; parity with PyTorch's networks is in `test_torch_parity.py`."""

import os
import pickle
import re
import sys
import warnings
import zipfile

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from advjax import models
from advjax.errors import InputError
from advjax.models import haiku_io, torch_io, torch_names

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def wrn():
    module = models.create("wrn_34_10", 10, depth=10, width=1)
    return module, random_variables(module, SHAPE)


def random_variables(module, shape, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), models.variable_shapes(module, shape)
    )


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_names_of_public_code():
    """Some names from each repository whose files are to be read."""
    expected = {
        "resnet18": {"conv1.weight", "layer2.0.shortcut.1.running_var", "layer4.1.bn2.weight", "linear.bias"},
        "resnet50": {"layer1.0.conv3.weight", "layer1.0.shortcut.0.weight", "layer3.5.bn3.running_mean"},
        "preact_resnet18": {"layer2.0.shortcut.0.weight", "layer1.0.bn1.weight", "bn.running_var", "linear.weight"},
        "wrn_34_10": {"block1.layer.0.convShortcut.weight", "block3.layer.4.bn2.bias", "bn1.weight", "fc.bias"},
        "wrn_28_10_swish": {
            "init_conv.weight",
            "layer.0.block.0.shortcut.weight",
            "layer.2.block.3.batchnorm_1.running_var",
            "layer.1.block.0.conv_0.weight",
            "batchnorm.bias",
            "logits.weight",
        },
        "mobilenet_v2": {"layers.0.shortcut.1.weight", "layers.16.conv2.weight", "conv2.weight", "linear.weight"},
        "small_cnn": {"feature_extractor.conv4.bias", "classifier.fc1.weight"},
        "vit": {"patch_embed.proj.weight", "blocks.5.attn.qkv.bias", "blocks.0.mlp.fc2.weight", "pos_embed"},
    }
    for name, wanted in expected.items():
        shape = (28, 28, 1) if name == "small_cnn" else SHAPE
        module = models.create(name, 10)
        leaves = flatten_dict(models.variable_shapes(module, shape))
        names = [torch_names.torch_name(module, leaf[1:]) for leaf in leaves]
        assert len(set(names)) == len(names)
        assert wanted <= set(names)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.1."])
def test_prefixes(wrn, tmp_path, prefix):
    module, variables = wrn
    state = {prefix + k: v for k, v in torch_io.torch_state(module, variables).items()}
    save_file(state, tmp_path / "w.safetensors")
    assert_equal(models.load_torch(tmp_path / "w.safetensors", module, SHAPE), variables)


def test_other_names_in_use(tmp_path):
    module = models.create("resnet20", 10, blocks=(1, 1, 1), width=4)
    variables = random_variables(module, SHAPE)
    state = torch_io.torch_state(module, variables)
    renamed = {re.sub("^linear", "fc", k).replace("shortcut", "downsample"): v for k, v in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "w.safetensors")
    assert_equal(models.load_torch(tmp_path / "w.safetensors", module, SHAPE), variables)


def test_missing_unused_and_mis_shaped_tensors_are_named(wrn, tmp_path):
    module, variables = wrn
    state = torch_io.torch_state(module, variables)
    del state["block2.layer.0.bn1.running_var"]
    state["fc.weight"] = state["fc.weight"][:7]
    state["head.weight"] = np.zeros((2, 2), np.float32)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as error:
        models.load_torch(tmp_path / "w.safetensors", module, SHAPE)
    message = str(error.value)
    assert "\n" not in message
    assert "missing block2.layer.0.bn1.running_var" in message
    assert "unused head.weight" in message
    assert "fc.weight is (7, 64), not (10, 64)" in message


def test_a_foreign_file_is_no_network(wrn, tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"and \d+ more; unused a"):
        models.load_torch(tmp_path / "w.safetensors", wrn[0], SHAPE)
    (tmp_path / "x.safetensors").write_bytes(b"no such thing")
    with pytest.raises(InputError, match="safetensors"):
        models.load_torch(tmp_path / "x.safetensors", wrn[0], SHAPE)
    with pytest.raises(InputError, match="path must be a path, it is None"):
        models.load_torch(None, models.create("small_cnn", 10), (28, 28, 1))
    with pytest.raises(InputError, match="no file"):
        models.load_torch(tmp_path / "absent.pt", wrn[0], SHAPE)


def test_two_networks_in_one_file(wrn, tmp_path):
    state = torch_io.torch_state(*wrn)
    both = {f"{side}.{k}": v.copy() for k, v in state.items() for side in ("student", "teacher")}
    save_file(both, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="student"):
        models.load_torch(tmp_path / "w.safetensors", wrn[0], SHAPE)


def test_dead_sub_block(wrn, tmp_path):
    module, variables = wrn
    models.save_torch(tmp_path / "w.safetensors", module, variables, sub_block1=True)
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it
    plain = torch_io.torch_state(module, variables)
    extra = set(load_file(tmp_path / "w.safetensors")) - set(plain)
    assert extra == {f"sub_{k}" for k in plain if k.startswith("block1.")}
    with pytest.warns(UserWarning, match="sub_block1.layer.0.bn1.bias"):
        assert_equal(models.load_torch(tmp_path / "w.safetensors", module, SHAPE), variables)
    tiny = models.create("tiny_cnn", 10, width=4)
    with pytest.raises(InputError, match="sub_block1"):
        models.save_torch(tmp_path / "x.safetensors", tiny, random_variables(tiny, (8, 8, 1)), sub_block1=True)


def test_sub_block_makes_up_the_published_parameter_count():
    module = models.create("wrn_34_10", 10)
    shapes = models.variable_shapes(module, SHAPE)
    leaves = flatten_dict(shapes)
    params = {path[1:]: leaf for path, leaf in leaves.items() if path[0] == "params"}
    block1 = sum(int(np.prod(leaf.shape)) for path, leaf in params.items() if path[0].startswith("block1_"))
    assert models.parameter_count(module, SHAPE) + block1 == 48_262_586


def test_normalisation_buffers(tmp_path):
    state = {"mu": np.float32([[[0.5]], [[0.4]], [[0.3]]]), "sigma": np.float32([[[0.2]], [[0.2]], [[0.2]]])}
    options = {"blocks": (1, 1, 1), "width": 4}
    right = models.create("resnet20", 10, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), **options)
    variables = random_variables(right, SHAPE)
    save_file({**state, **torch_io.torch_state(right, variables)}, tmp_path / "w.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal(models.load_torch(tmp_path / "w.safetensors", right, SHAPE), variables)
    with pytest.warns(UserWarning) as caught:
        models.load_torch(tmp_path / "w.safetensors", models.create("resnet20", 10, **options), SHAPE)
    assert any("mu = (0.5, 0.4, 0.3); this network has mean = None" in str(w.message) for w in caught)


def test_pytorch_files_without_pytorch(wrn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="extra 'torch'"):
        models.save_torch(tmp_path / "w.pt", *wrn)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "net", None])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_wrappers_and_formats(wrn, tmp_path, wrapper, zipped):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    module, variables = wrn
    state = {f"module.{k}": torch.from_numpy(v) for k, v in torch_io.torch_state(module, variables).items()}
    content = {wrapper: state, "epoch": 3, "best_acc": np.float64(55.5)} if wrapper else state
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert_equal(models.load_torch(tmp_path / "w.pt", module, SHAPE), variables)


def test_unknown_wrappers_are_named(wrn, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    state = {k: torch.from_numpy(v) for k, v in torch_io.torch_state(*wrn).items()}
    torch.save({"ema_weights": state, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="ema_weights"):
        models.load_torch(tmp_path / "w.pt", wrn[0], SHAPE)
    assert_equal(models.load_torch(tmp_path / "w.pt", wrn[0], SHAPE, entry="ema_weights"), wrn[1])
    with pytest.raises(InputError, match="ema_weights"):
        models.load_torch(tmp_path / "w.pt", wrn[0], SHAPE, entry="ema_weigths")


class Executes:
    """Creates a file when unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_that_executes_is_refused(wrn, tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    trace = tmp_path / "executed"
    state = {k: torch.from_numpy(v) for k, v in torch_io.torch_state(*wrn).items()}
    content = {"state_dict": state, "extra": Executes(trace)}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"refused .*mkdir"):
        models.load_torch(tmp_path / "w.pt", wrn[0], SHAPE)
    assert not trace.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert trace.exists(), "the file was harmless, so the test proved nothing"


def test_a_damaged_pytorch_file_gets_one_line(wrn, tmp_path):
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    for content in (b"", b"garbage" * 100):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(InputError) as error:
            models.load_torch(tmp_path / "w.pt", wrn[0], SHAPE)
        assert "\n" not in str(error.value)


ODD = {
    "quantised": lambda torch, t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "sparse coo": lambda torch, t: t.to_sparse(),
    "sparse csr": lambda torch, t: t.to_sparse_csr(),
    "device meta": lambda torch, t: t.to("meta"),
    "complex64": lambda torch, t: torch.complex(t, t).conj(),
    "float8_e4m3fn": lambda torch, t: t.to(torch.float8_e4m3fn),
    "nested": lambda torch, t: torch.nested.nested_tensor([t, t]),
    "int32, not of floating": lambda torch, t: t.to(torch.int32),
    "claims 4,000,000,000,000 bytes": lambda torch, t: torch.zeros(1).expand(10**6, 10**6),
    "NaN in 1 of": lambda torch, t: t.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(float("nan"))),
    "infinity or numbers beyond float32 in 2,048 of": lambda torch, t: t.double() * 1e300,
}


@pytest.fixture(scope="module")
def tiny():
    module = models.create("tiny_cnn", 10, width=4)
    return module, random_variables(module, (8, 8, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("odd", ODD)
def test_odd_tensors_are_named(tiny, tmp_path, odd):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    state = {k: torch.from_numpy(v) for k, v in torch_io.torch_state(*tiny).items()}
    torch.save({**state, "fc1.weight": ODD[odd](torch, state["fc1.weight"])}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"tensor fc1\.weight .*{odd}") as error:
        models.load_torch(tmp_path / "w.pt", tiny[0], (8, 8, 1))
    assert "\n" not in str(error.value)


def write_odd_content(kind, path, torch, state):
    itself: dict = {"epoch": 3}
    itself["state_dict"] = itself
    if kind == "torchscript":
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/0", b"0" * 2**24)
    elif kind in ("cut", "overwritten"):
        torch.save(state, path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if kind == "cut" else content[:100] + b"x" * 200 + content[300:])
    elif kind == "cut old":
        torch.save(state, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "look-up":
        path.write_bytes(b"\x80\x02}q\x00h\x07.")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    else:
        content = {
            "itself": itself,
            "key": {**state, 3: state["fc1.weight"]},
            "line": {**state, "a\nb" + "c" * 200: state["fc1.weight"]},
            "keys": {3: 1, ("a", 2): 2},
            "module": {"net": torch.nn.ReLU()},
        }[kind]
        torch.save(content, path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind, message",
    [
        ("torchscript", "TorchScript program; save its state_dict"),
        ("bomb", "claims 16,777,216 bytes"),
        ("cut", "cannot be read as a PyTorch file"),
        ("overwritten", "cannot be read as a PyTorch file"),
        ("cut old", "unexpected EOF"),
        ("pickle", "cannot be read as a PyTorch file: Unsupported operand"),
        ("look-up", r"cut short or damaged \(KeyError\)"),
        ("itself", r"contains itself \(state_dict\)"),
        ("key", "names a tensor by a value of type int"),
        ("line", r"unused 'a\\nbccc"),
        ("keys", r"\(<int>, <tuple>\)"),
        ("module", r"more than tensors: torch\.nn\.modules\.activation\.ReLU"),
    ],
)
def test_odd_files_get_one_line_without_advice(tiny, tmp_path, kind, message):
    """PyTorch's own message advises loading the file unsafely."""
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    state = {k: torch.from_numpy(v) for k, v in torch_io.torch_state(*tiny).items()}
    write_odd_content(kind, tmp_path / "w.pt", torch, state)
    with pytest.raises(InputError, match=message) as error:
        models.load_torch(tmp_path / "w.pt", tiny[0], (8, 8, 1))
    text = str(error.value)
    assert "\n" not in text and "weights_only" not in text and "safe_globals" not in text and len(text) < 500


def test_numbers_that_numpy_has_not(tiny, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    from safetensors.torch import save_file as save

    save({"fc1.weight": torch.zeros(3).to(torch.float8_e5m2)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="tensors of a type that is not read, or damaged; allowed: float64"):
        models.load_torch(tmp_path / "w.safetensors", tiny[0], (8, 8, 1))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("bn2.weight", np.nan, "bn2.weight holds NaN in 1 of 8 places"),
        ("bn1.running_mean", -np.inf, "bn1.running_mean holds infinity"),
        ("bn1.running_var", -1e-7, r"bn1.running_var is a running variance and negative \(-1e-07\)"),
    ],
)
def test_values_that_no_network_has(tiny, tmp_path, name, value, message):
    """Without a check: XLA may give finite logits for a NaN, and a tiny negative variance does so always."""
    module, variables = tiny
    state = {k: v.copy() for k, v in torch_io.torch_state(module, variables).items()}
    state[name][0] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=f"w.safetensors: tensor {message}"):
        models.load_torch(tmp_path / "w.safetensors", module, (8, 8, 1))


def test_check_variables(tiny):
    module, variables = tiny
    models.check_variables(variables, module, (8, 8, 1), "here")

    def message(*path, value):
        changed = flatten_dict(variables)
        changed[path] = value(changed[path]) if path in changed else value(None)
        with pytest.raises(InputError) as error:
            models.check_variables(unflatten_dict(changed), module, (8, 8, 1), "checkpoint in x")
        return str(error.value)

    bias = ("params", "fc2", "bias")
    assert message(*bias, value=lambda v: v[:3]) == (
        "checkpoint in x: params/fc2/bias has shape (3,), TinyCNN needs (10,)"
    )
    assert "params/fc9/bias has shape (2,), TinyCNN needs none" in message(
        "params", "fc9", "bias", value=lambda v: np.ones(2)
    )
    assert "params/fc2/bias holds NaN in 10 of 10 places" in message(*bias, value=lambda v: v * np.nan)
    assert "params/fc2/bias is of type complex64, not of real" in message(*bias, value=lambda v: v * 1j)
    assert "holds infinity" in message(*bias, value=lambda v: (v * np.inf).astype(jax.numpy.bfloat16))
    assert "batch_stats/bn1/var is a running variance and negative" in message(
        "batch_stats", "bn1", "var", value=lambda v: -v
    )
    with pytest.raises(InputError, match="batch_stats/bn1/mean has shape none"):
        models.check_variables({"params": variables["params"]}, module, (8, 8, 1), "here")


def test_networks_that_would_fit_are_named(tmp_path):
    module = models.create("resnet20", 10, shortcut="pad")
    state = {f"module.{k}": v for k, v in torch_io.torch_state(module, random_variables(module, SHAPE)).items()}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as error:
        models.load_torch(tmp_path / "w.safetensors", models.create("resnet18", 10), SHAPE)
    named = str(error.value).partition("it fits ")[2]
    assert named == "resnet20 (10 classes, shortcut='pad'), the teacher akamaster_resnet20"
    module = models.create("resnet18", 100)
    assert torch_io.fits(torch_io.torch_state(module, random_variables(module, SHAPE)), SHAPE) == [
        "resnet18 (100 classes)",
        "the teacher addepalli2022_cifar100_resnet18",
        "resnet18_lbgat (100 classes)",
    ]


class FlatMapping(dict):
    """Pickles under Haiku's name."""

    def __reduce__(self):
        return FlatMapping, (dict(self),)


FlatMapping.__module__ = "haiku._src.data_structures"


def haiku_checkpoint(module, variables):
    """What DeepMind's training would save for these variables, written from Haiku's rules."""
    params, state = {}, {}
    for name, value in torch_io.torch_state(module, variables).items():
        parent, leaf = name.rsplit(".", 1)
        parent = re.sub(r"layer\.(\d)\.block\.(\d+)\.", r"resnet_lay_\1_block_\2/~/", parent)
        path = f"wide_res_net/~/{parent}"
        if leaf == "weight" and value.ndim > 1:
            params.setdefault(path, {})["w"] = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        elif leaf in ("weight", "bias") and "batchnorm" in parent:
            params.setdefault(path, {})[{"weight": "scale", "bias": "offset"}[leaf]] = value.reshape(1, 1, 1, -1)
        elif leaf == "bias":
            params.setdefault(path, {})["b"] = value
        elif leaf.startswith("running"):
            ema = {"average": value.reshape(1, 1, 1, -1), "hidden": 0 * value, "counter": np.int32(5)}
            state[f"{path}/~/{leaf.removeprefix('running_')}_ema"] = ema
    return params, state


@pytest.mark.parametrize("mapping, array", [(dict, np.asarray), (dict, jax.numpy.asarray), (FlatMapping, np.asarray)])
def test_haiku_checkpoint(tmp_path, mapping, array, monkeypatch):
    module = models.create("wrn_28_10_swish", 10, depth=10, width=2)
    variables = random_variables(module, SHAPE)
    params, state = haiku_checkpoint(module, variables)
    assert "wide_res_net/~/resnet_lay_1_block_0/~/batchnorm_0" in params
    params, state = jax.tree.map(array, (params, state))
    params, state = (mapping({k: mapping(v) for k, v in tree.items()}) for tree in (params, state))
    content = np.empty(2, object)
    content[:] = [params, state]
    if mapping is FlatMapping:
        fake = type(os)("haiku._src.data_structures")
        fake.FlatMapping = FlatMapping
        for name in ("haiku", "haiku._src", "haiku._src.data_structures"):
            monkeypatch.setitem(sys.modules, name, fake)
    np.save(tmp_path / "w.npy", content, allow_pickle=True)
    for name in ("haiku", "haiku._src", "haiku._src.data_structures"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert_equal(models.load_torch(tmp_path / "w.npy", module, SHAPE), variables)


def test_a_haiku_file_that_executes_is_refused(wrn, tmp_path):
    trace = tmp_path / "executed"
    content = np.empty(2, object)
    content[:] = [{}, Executes(trace)]
    np.save(tmp_path / "w.npy", content, allow_pickle=True)
    with pytest.raises(InputError, match=r"refused.*mkdir"):
        haiku_io.read_state(tmp_path / "w.npy")
    assert not trace.exists()
    np.load(tmp_path / "w.npy", allow_pickle=True)
    assert trace.exists(), "the file was harmless, so the test proved nothing"


def odd_haiku(kind):
    itself: list = []
    itself.append(itself)
    params = {
        "itself": {"net/~/conv": {"w": itself}},
        "flat": {"net/~/conv": np.zeros(3)},
        "integers": {"net/~/conv": {"w": np.zeros(3, int)}},
        "key": {3: {"w": np.zeros(3)}},
    }[kind]
    content = np.empty(2, object)
    content[:] = [params, {}]
    return content


@pytest.mark.parametrize("kind", ["itself", "flat", "integers", "key"])
def test_haiku_files_that_hold_something_else(wrn, tmp_path, kind):
    np.save(tmp_path / "w.npy", odd_haiku(kind), allow_pickle=True)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "w.npy"))) as error:
        models.load_torch(tmp_path / "w.npy", wrn[0], SHAPE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [np.zeros(3), np.array([1, None], object), b"garbage"])
def test_other_npy_files(tmp_path, content):
    path = tmp_path / "w.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError, match=re.escape(str(path))):
        haiku_io.read_state(path)
