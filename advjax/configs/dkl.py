"""DKL/IKL (Cui et al. 2024): TRADES' KL taken apart, its pairwise term weighted by class means.

    python -m experiments.run --config=experiments/configs/dkl.py:digits --workdir=runs/dkl-digits
    python -m experiments.run --config=experiments/configs/dkl.py:cifar10 --workdir=runs/dkl

The authors' recipe: WRN-34-10, 200 epochs, SGD 0.2, cosine, weight decay 5e-4, AWP 0.005 from epoch 10, radius and
step growing over the run, EMA 0.9 of the epochs' ends.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("dkl_awp_ema", awp_gamma=0.005, awp_warmup=0.05, ema_decay=0.9, ema_every="epoch")
    config.network.name = "wrn_34_10"
    config.optimizer.learning_rate = 0.2
    config.schedule.name = "cosine"
    return common.variant(config, variant, VARIANTS)


def _cifar100(config):
    config.method.attack_beta = 1.0


VARIANTS = common.variants(common.plain_course, _cifar100)
