"""A PGD-K adversarial training step, ours against PyTorch as its users write it.

    python -m experiments.benchmarks.against_torch [--networks=resnet18:16:128,resnet18:64:32,wrn_34_10:10:4]
        [--forms=ours,default,channels_last,compile,...] [--steps=10] [--repeats=3] [--results=FILE]

A network is NAME:width:batch. Both sides take turns in one process on the same device, the same architecture (PyTorch's
is `advjax/cli/torch_definitions`), SGD with momentum and weight decay, running statistics in the attack. PyTorch gets
its batch ready made; ours includes gathering, augmentation and metrics. On a GPU PyTorch may use TF32 in float32
convolutions and products, as ours does, and there are forms in bfloat16: `ours_bfloat16` and `amp...`. A form that fails
is reported with its error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

# PyTorch needs its share of a GPU's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from absl import flags

from advjax.errors import InputError, unknown
from experiments.benchmarks import common, steps

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", ["resnet18:16:128", "resnet18:64:32", "wrn_34_10:10:4"], "NAME:width:batch")
flags.DEFINE_list("forms", [], "of FORMS; all that the device supports if absent")
flags.DEFINE_integer("steps", 10, "K")
flags.DEFINE_integer("size", 32, "height and width of the images")

# Name -> channels_last, torch.compile, bfloat16; ours has no such options but the last.
FORMS = {
    "ours": (False, False, False),
    "default": (False, False, False),
    "channels_last": (True, False, False),
    "compile": (False, True, False),
    "compile_channels_last": (True, True, False),
    "ours_bfloat16": (False, False, True),
    "amp": (False, False, True),
    "amp_channels_last": (True, False, True),
    "amp_compile_channels_last": (True, True, True),
}
EPS, STEP_SIZE = 8 / 255, 2 / 255


def torch_network(name: str, width: int) -> Any:
    """The PyTorch module that corresponds to one of ours."""
    from advjax.cli.torch_definitions import resnet, small_cnn, wide_resnet

    if name == "resnet18":
        return resnet.ResNet(width=width)
    if name == "wrn_34_10":
        return wide_resnet.WideResNet(width=width)
    if name == "tiny_cnn":
        return small_cnn.TinyCNN(width=width, channels=3, size=(FLAGS.size, FLAGS.size))
    raise unknown("network (--networks)", name, ("resnet18", "tiny_cnn", "wrn_34_10"))


def torch_step(net: Any, batch: int, *, channels_last: bool, compiled: bool, amp: bool) -> Callable[[], None]:
    """A PGD adversarial training step, to be called again and again."""
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(device, memory_format=layout)
    x = torch.rand(batch, 3, FLAGS.size, FLAGS.size, device=device).to(memory_format=layout)
    y = torch.randint(0, 10, (batch,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    model = torch.compile(net) if compiled else net

    def loss_of(images):
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return functional.cross_entropy(model(images), y)

    def attack():
        adversarial = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(FLAGS.steps):
            adversarial.requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of(adversarial), [adversarial])
            adversarial = adversarial.detach() + STEP_SIZE * gradient.sign()
            adversarial = torch.min(torch.max(adversarial, x - EPS), x + EPS).clamp(0, 1)
        return adversarial

    def step():
        net.eval()
        adversarial = attack()
        net.train()
        optimizer.zero_grad()
        loss_of(adversarial).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _form(name: str, network: str, width: int, batch: int) -> Callable[[], Any]:
    channels_last, compiled, low = FORMS[name]
    if not name.startswith("ours"):
        net = torch_network(network, width)
        return torch_step(net, batch, channels_last=channels_last, compiled=compiled, amp=low)
    sizes = {"network": network, "width": width, "batch": batch, "size": FLAGS.size}
    return steps.Step(steps.pgd_at(FLAGS.steps, precision="bfloat16" if low else "float32", **sizes))


def _usable(names: list[str]) -> list[str]:
    import torch

    for name in names:
        if name not in FORMS:
            raise unknown("form (--forms)", name, FORMS)
    return names or [name for name in FORMS if torch.cuda.is_available() or not FORMS[name][2]]


def _table(report: common.Report, network: str, width: int, batch: int) -> None:
    table, forms, first = f"{network}, width {width}, batch {batch}", {}, {}
    for name in _usable(FLAGS.forms):
        started = time.perf_counter()
        try:
            forms[name] = _form(name, network, width, batch)
            jax.block_until_ready(forms[name]())
        except InputError:
            raise
        except Exception as error:
            forms.pop(name, None)
            report.add(table, form=name, failed=(str(error).strip() or type(error).__name__).splitlines()[0])
        first[name] = time.perf_counter() - started
    times = common.measure(forms, FLAGS.repeats)
    for name, row in times.items():
        ratio = common.over(row, times[next(iter(times))])
        report.add(table, form=name, **common.seconds({**row, "first": first[name]}), **{"over the first": ratio})


def main() -> None:
    """Prints one table per network."""
    report = common.Report(f"PGD-{FLAGS.steps} adversarial training step, ours against PyTorch")
    for text in FLAGS.networks:
        _table(report, **steps.parse(text))


if __name__ == "__main__":
    common.run(main)
