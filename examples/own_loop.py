"""TRADES on a network, data and a loop of one's own: `python examples/own_loop.py`."""

import flax.linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import advjax
from advjax.methods import TRADES, TrainingAttack
from advjax.training import StepConfig, Trainer, average


class MyNetwork(nn.Module):
    """Any linen module that takes `train`; `advjax.models.from_nnx` and others adapt what is none."""

    @nn.compact
    def __call__(self, x, train=False):
        """[B, 8, 8, 1] to logits [B, 10]."""
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.relu(nn.Conv(32, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


def batches(images, labels, size, seed):
    """Anything that yields images [B, H, W, C] in [0, 1] and labels [B]; here shuffled whole batches."""
    order = np.random.default_rng(seed).permutation(len(images))
    for rows in np.split(order[: len(order) // size * size], len(order) // size):
        yield images[rows], labels[rows]


def main(epochs=8):
    """Trains, attacks, and returns (clean, robust) accuracy."""
    digits = load_digits()
    images, labels = (digits.images[..., None] / 16).astype(np.float32), digits.target

    module, attack = MyNetwork(), TrainingAttack(eps="0.2", step_size="0.05", steps=5, start="normal")
    trainer = Trainer(TRADES(attack, beta=4.0), {"model": module}, optax.adam(3e-3), StepConfig(num_classes=10))
    state = trainer.init((8, 8, 1))
    for epoch in range(epochs):
        for x, y in batches(images[:1400], labels[:1400], 100, seed=epoch):
            state, metrics = trainer.step(state, x, y, epoch=epoch)
        print(epoch, {name: round(value, 3) for name, value in average(metrics).items()})

    f = advjax.logits_fn(module, state.variables("model"))
    x, y = images[1400:], labels[1400:]
    x_adv = advjax.attacks.pgd(f, jax.random.key(0), x, y, eps=0.2, step_size=0.05, steps=20)
    clean, robust = (float(np.mean(np.argmax(f(each), -1) == y)) for each in (x, x_adv))
    print(f"clean {clean:.1%}, PGD-20 {robust:.1%}")
    return clean, robust


if __name__ == "__main__":
    main()
