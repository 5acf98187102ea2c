"""Methods that change a part of another method and hand on the rest."""

from __future__ import annotations

import dataclasses

from advjax.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Wrapper(Method):
    """The method `base` itself; a wrapper overrides what it changes.

    Attributes:
        base: the method that is wrapped, which may be a wrapper.
    """

    base: Method

    @property
    def trained(self):
        return self.base.trained

    @property
    def frozen(self):
        return self.base.frozen

    @property
    def averaged(self):
        return self.base.averaged

    @property
    def evaluated(self):
        return self.base.evaluated

    @property
    def interchangeable(self):
        return self.base.interchangeable

    @property
    def best_by(self):
        return self.base.best_by

    @property
    def rounds(self):
        return self.base.rounds

    @property
    def perturb_each_round(self):
        return self.base.perturb_each_round

    def init_state(self, labels, num_classes):
        return self.base.init_state(labels, num_classes)

    def phase(self, epoch, epochs):
        return self.base.phase(epoch, epochs)

    def perturb(self, context, key):
        return self.base.perturb(context, key)

    def displace(self, context, crafted, key):
        return self.base.displace(context, crafted, key)

    def loss(self, context, crafted, key):
        return self.base.loss(context, crafted, key)

    def proxy_loss(self, context, crafted, key):
        return self.base.proxy_loss(context, crafted, key)

    def settle(self, context, crafted):
        return self.base.settle(context, crafted)
