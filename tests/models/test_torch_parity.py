import jax
import numpy as np
import pytest

torch_nets = pytest.importorskip("tests.models.torch_nets", reason="needs the extra 'torch'")
torch = torch_nets.torch

from advjax import models  # noqa: E402
from advjax.models import torch_io  # noqa: E402


@pytest.mark.parametrize("case", torch_nets.CASES)
def test_logits_and_statistics_both_ways(case, tmp_path):
    module, reference, shape = torch_nets.pair(case)
    x = torch_nets.images(shape)
    torch.save(reference.state_dict(), tmp_path / "in.pt")
    variables = models.load_torch(tmp_path / "in.pt", module, shape)
    logits = torch_nets.torch_logits(reference, x)
    assert np.std(logits) > 0.01
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x), logits, atol=1e-4)

    _, other, _ = torch_nets.pair(case, seed=1)
    models.save_torch(tmp_path / "out.pt", module, variables)
    other.load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True), strict=True)
    np.testing.assert_allclose(torch_nets.torch_logits(other, x), logits, atol=1e-6)

    if variables["batch_stats"]:
        torch_nets.torch_logits(other.train(), x)
        _, moved = jax.jit(lambda v, x: module.apply(v, x, True, mutable=["batch_stats"]))(variables, x)
        ours = torch_io.torch_state(module, {**variables, **moved})
        for name, value in other.state_dict().items():
            if "running" in name:
                np.testing.assert_allclose(ours[name], value, atol=1e-4, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("case", ["resnet50", "small_cnn", "vit"])
def test_safetensors(case, tmp_path):
    from safetensors.torch import load_file, save_file

    module, reference, shape = torch_nets.pair(case)
    _, other, _ = torch_nets.pair(case, seed=1)
    x = torch_nets.images(shape)
    save_file(reference.state_dict(), tmp_path / "in.safetensors")
    variables = models.load_torch(tmp_path / "in.safetensors", module, shape)
    models.save_torch(tmp_path / "out.safetensors", module, variables)
    other.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)
    np.testing.assert_array_equal(torch_nets.torch_logits(other, x), torch_nets.torch_logits(reference, x))


def accuracy(module, variables, x, y, batch):
    # Unlike the other tests these compute much: with LLVM's optimisations they take half the time.
    logits = jax.jit(models.logits_fn(module, variables), compiler_options={"xla_backend_optimization_level": 3})
    hits = [np.asarray(logits(x[i : i + batch]).argmax(-1) == y[i : i + batch]) for i in range(0, len(x), batch)]
    return 100 * np.concatenate(hits).mean()


def test_real_trades_mnist_network(test_data):
    data = np.load(test_data / "mnist.npz")
    x = (data["x_test"][:2000] / np.float32(255)).reshape(-1, 28, 28, 1)
    module, variables = models.load_teacher("trades_mnist", test_data / "weights/trades_mnist_smallcnn.pt")
    assert accuracy(module, variables, x, data["y_test"][:2000].ravel(), 500) == pytest.approx(99.15, abs=0.001)


def test_real_cifar10_resnet56(test_data):
    data = np.load(test_data / "cifar10/test.npz")
    x = data["image"] / np.float32(255)
    module, variables = models.load_teacher("akamaster_resnet56", test_data / "weights/cifar10_resnet56_optionA.th")
    assert accuracy(module, variables, x, data["label"].ravel(), 25) == pytest.approx(93.39, abs=0.05)
