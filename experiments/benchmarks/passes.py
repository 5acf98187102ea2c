"""How much arithmetic a training step is, counted in passes through the network.

A forward of one batch is 1 pass. Its gradient with respect to the images costs 1 more, with respect to parameters and
inner activations 2 more: a PGD step is 2 passes, a training step 3, PGD-K adversarial training 2K + 3.
"""

from __future__ import annotations

from typing import NamedTuple

from advjax.arithmetic import flops as flops


class Passes(NamedTuple):
    """Passes of one step of a method whose networks are all of one size.

    Attributes:
        per_step: for every step of the attack.
        rest: beside the attack's steps.
        merged: of the rest, forwards that the program asks for twice at the same weights, images and statistics, which
            XLA therefore computes once.
    """

    per_step: int
    rest: int
    merged: int = 0

    def __call__(self, steps: int) -> int:
        """Passes that are computed, of an attack of so many steps."""
        return self.per_step * steps + self.rest - self.merged


# Config (and variant) -> passes, with PGD on running statistics and the fields of the config otherwise.
PASSES: dict[str, Passes] = {
    "natural": Passes(0, 3),
    "pgd_at": Passes(2, 4),  # training step 3, clean forward after it 1
    "fgsm_rs": Passes(2, 3),
    "trades": Passes(2, 8, 1),  # p(x) 1; clean 3, adversarial 3; clean again 1, for the statistics alone, merged
    "mart": Passes(2, 6),  # clean 3, adversarial 3
    "dynat": Passes(2, 8, 1),  # guide: labels 1, merged with its training step 3; target 3, clean 1
    "sglr": Passes(2, 4),  # adversarial 3, clean 1
    "mtard": Passes(2, 8),  # student 3 + 3, two teachers 1 + 1
    "bmtard": Passes(2, 8),
    "mat": Passes(4, 8),  # two peers, each 3 on its own examples, 1 on the clean images as a teacher
    "mat:cifar10-exchange": Passes(4, 12),  # two peers, each 3 on the examples of both
    "mat_union": Passes(
        12, 21
    ),  # six attacks; generalist 3 on three batches, three specialists 3 on one and 1 as teachers
    "mat_union:cifar10-exchange": Passes(12, 36),  # generalist 3 on six batches, three specialists 3 on two
    "mat_union:cifar10-mutual": Passes(6, 12),  # three peers, each 3 on its own examples, 1 as a teacher
    "p_inf": Passes(2, 3),
    "p_1": Passes(4, 4),  # two runs of the attack, a forward that tells whom the second one fools, training step 3
    "msd": Passes(5, 3),  # an attack step also scores three candidates
    "max": Passes(8, 7),  # three norms, l_1 with two runs and 1; scores 3, training step 3
    "avg": Passes(8, 10),  # p_1 and two of p_inf, each with a training step
    "at_awp": Passes(2, 7),  # PGD-AT and the proxy's gradient 3
    "trades_awp": Passes(2, 15, 2),  # TRADES, and its loss on the proxy 7, a forward merged in each
    "dynat:cifar10-awp": Passes(2, 17),  # p(x) 1, labels 1, guide 3, target 3 + 3, proxy 3 + 3
}
