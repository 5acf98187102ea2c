"""`experiments.export`: what it writes loads elsewhere and computes the same."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import advjax
from advjax import models
from advjax.cli import export

NETWORKS = {
    "tiny_cnn": ({"width": 4}, (8, 6, 1)),
    "small_cnn": ({"width": 4}, (28, 28, 1)),
    "resnet18": ({"width": 4, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.3, 0.2)}, (32, 32, 3)),
    "resnet20": ({"blocks": (1, 1, 1), "shortcut": "pad"}, (32, 32, 3)),
    "preact_resnet18": ({"width": 4, "shortcut_from": "raw"}, (32, 32, 3)),
    "wrn_34_10": ({"depth": 10, "width": 1}, (32, 32, 3)),
    "wrn_28_10_swish": ({"depth": 10, "width": 1}, (32, 32, 3)),
    "mobilenet_v2": ({"width": 0.25}, (32, 32, 3)),
    "vit": ({"width": 24, "depth": 1}, (32, 32, 3)),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a finished run of the network of that name: (workdir, module, variables)."""

    def make(name, seed=0):
        options, shape = NETWORKS[name]
        module = models.create(name, 10, **options)
        rng = np.random.default_rng(seed)
        variables = jax.tree.map(
            lambda leaf: rng.uniform(0.05, 0.2, leaf.shape).astype(np.float32), models.variable_shapes(module, shape)
        )
        config = {"method": {"name": "trades"}, "network": {"name": name}, "attack": {"norm": "linf", "eps": "0.2"}}
        row = {"network": "net", "checkpoint": "best", "attack": "clean", "norm": "linf", "eps_text": "0.2", "n": 10}
        report = {"networks": {"net": {}}, "results": [{**row, "accuracy": 0.9}], "warnings": ["a warning"]}
        workdir = tmp_path / "run"
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(config))
        (workdir / "data.json").write_text(json.dumps({"name": "toy", "num_classes": 10, "image_shape": shape}))
        (workdir / "report.json").write_text(json.dumps(report))
        monkeypatch.setattr(export, "load_run", lambda *_: (module, variables))
        return workdir, module, variables

    return make


def imported(path):
    spec = importlib.util.spec_from_file_location("network", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NETWORKS)
def test_pytorch_export_computes_the_same(run, name):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    workdir, module, variables = run(name)
    format = "safetensors" if name == "resnet18" else "torch"
    assert export.main(["export", f"--workdir={workdir}", f"--format={format}"]) == 0
    folder = workdir / "export" / format
    network = imported(folder / "network.py").load()
    x = np.random.default_rng(0).random((2, *NETWORKS[name][1]), np.float32)
    with torch.no_grad():
        logits = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(jax.jit(module.apply)(variables, x))
    assert np.ptp(ours) > 0
    np.testing.assert_allclose(logits, ours, atol=1e-4 * max(1, np.abs(ours).max()))


def test_the_definition_needs_pytorch_alone(run):
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    workdir, _, _ = run("tiny_cnn")
    folder = export.export(workdir, "torch", workdir / "elsewhere")
    code = (
        "import network, sys; network.load(); print([m for m in sys.modules if m in ('jax', 'advjax', 'experiments')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dead_sub_block_for_strict_loaders(run):
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    workdir, _, _ = run("wrn_34_10")
    assert export.main(["export", f"--workdir={workdir}", "--format=torch", "--sub_block1"]) == 0
    folder = workdir / "export/torch"
    assert "sub_block1.layer.0.conv1.weight" in torch.load(folder / "weights.pt", weights_only=True)
    assert not imported(folder / "network.py").load().training


def test_orbax_export(run):
    import orbax.checkpoint as ocp

    workdir, _, variables = run("resnet20")
    for _ in range(2):  # writing over an earlier export
        assert export.main(["export", f"--workdir={workdir}", "--format=orbax"]) == 0
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore((workdir / "export/orbax/weights").absolute())
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def test_model_card(run):
    workdir, module, variables = run("resnet20")
    export.export(workdir, "safetensors")
    card = (workdir / "export/safetensors/model_card.md").read_text()
    assert advjax.evaluate.params_sha256(variables) in card
    call = "advjax.models.create('resnet20', 10, blocks=(1, 1, 1), shortcut='pad')"
    assert call in card and eval(call) == module
    assert "| clean | linf | 0.2 | 90.00 % | 10 |" in card
    assert "Warning: a warning" in card
    assert '"name": "trades"' in card
    (workdir / "report.json").unlink()
    export.export(workdir, "safetensors")
    assert "Not evaluated yet." in (workdir / "export/safetensors/model_card.md").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--workdir=absent", "--format=torch"], "absent"),
        (["--workdir=absent", "--format=pickle"], "safetensors"),
        (["--format=torch"], "--workdir"),
        (["--workdir=absent", "--format=torch", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys):
    assert export.main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
