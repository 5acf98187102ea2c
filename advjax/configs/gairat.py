"""GAIRAT (Zhang et al. 2021): adversarial training that weights an example by how few steps fool it.

    python -m experiments.run --config=experiments/configs/gairat.py:digits --workdir=runs/gairat-digits
    python -m experiments.run --config=experiments/configs/gairat.py:cifar10 --workdir=runs/gairat

The authors' recipe: WRN-32-10 by their count of layers, which is WRN-34-10 by that of everybody else (five blocks a
stage), 120 epochs, SGD 0.1, /10 from epoch 60, /100 from 90, /200 from 110 (counted from 1),
weight decay 2e-4, eps 0.031; weights from epoch 60 on. Any method that weighs its examples takes it: `trades_gairat`.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair."""
    config = common.get_config("pgd_at_gairat", clean_statistics=False)
    config.network.name = "wrn_34_10"
    config.epochs = 120
    config.optimizer.weight_decay = 2e-4
    config.schedule.update({"milestones": (59 / 120, 89 / 120, 109 / 120)})
    with config.schedule.ignore_type():
        config.schedule.factor = (0.1, 0.1, 0.5)
    config.attack.update({"eps": "0.031", "step_size": "0.007"})
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    common.plain_course(config)


VARIANTS = common.variants(_digits)
