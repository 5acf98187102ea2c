"""MAIL-AT (Wang et al. 2021): adversarial training that weights an example by its probabilistic margin.

    python -m experiments.run --config=experiments/configs/mail.py:digits --workdir=runs/mail-digits
    python -m experiments.run --config=experiments/configs/mail.py:cifar10 --workdir=runs/mail

The authors' recipe: ResNet-18, 120 epochs, SGD 0.01, weight decay 3.5e-3, x0.1 from 75, 90 and 100 (counted from 0),
eps 0.031, start x + 0.001 N(0, I); weights from epoch 77 on. `cifar10-trades` is MAIL-TRADES: slope 2, bias 0, beta
5.
Variant `cifar10-fair` has the one recipe under which all methods are compared.
"""

from advjax import methods
from advjax.configs import common


def get_config(variant="cifar10"):
    """Variants: digits, cifar10, cifar100, cifar10-fair and cifar10-trades."""
    config = common.get_config("pgd_at_mail", clean_statistics=False)
    config.epochs = 120
    config.optimizer.update({"learning_rate": 0.01, "weight_decay": 3.5e-3})
    config.schedule.milestones = (75 / 120, 90 / 120, 100 / 120)
    config.attack.update({"eps": "0.031", "step_size": "0.007", "start": "normal"})
    return common.variant(config, variant, VARIANTS)


def _digits(config):
    common.plain_course(config)
    config.method.mail_normalise = True  # without it the network collapses at this learning rate


def _trades(config):
    name = "trades_mail"
    own = {"beta": 5.0, "order": "clean-adv", "mail_slope": 2.0, "mail_bias": 0.0}
    config.method = {"name": name, **methods.defaults(name), **own}
    return common.cifar(config, 10)


VARIANTS = {**common.variants(_digits), "cifar10-trades": _trades}
