"""Guides whose draws come from the prior for a share of them."""

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.distributions import Defended
from pyro_vae.foundation.abstract import Around
from pyro_vae.inference.particles import Program
from pyro_vae.models.program import named


class Defending(Around):
    """A guide that draws a `share` of its latents from the prior of a model of this package, `(batch,)`.

    It is called with the share beside the data, which the model is to ignore: `Ignoring(model, "share")`.
    """

    def __init__(self, program: Program, model: Any) -> None:
        super().__init__(program)
        self.model = model

    def forward(self, *args: Any, share: Tensor, **kwargs: Any) -> Any:
        with Defence(self.model, named(args[0], {}), share):
            return self.program(*args, **kwargs)


class Defence(Messenger):
    """Replaces the q of each draw by `Defended`, whose other part is the density of another program of these data."""

    def __init__(self, program: Any, data: dict[str, Tensor], share: Tensor) -> None:
        super().__init__()
        self.factors = {factor.site: factor for factor in program.factors()}
        self.values, self.share = program.known(data), share

    def _defends(self, msg: Any) -> bool:
        """Whether a site is drawn: not one all of whose values are enumerated."""
        drawn = not msg["is_observed"] and not site_is_subsample(msg)
        return drawn and not msg["infer"].get("enumerate")

    def _pyro_sample(self, msg: Any) -> None:
        if self._defends(msg):
            other = self.factors[msg["name"]].at(self.values)
            msg["fn"] = Defended(msg["fn"], other, self.share)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.factors:
            return
        known = self.values.get(name)
        value = msg["value"]
        partly = known is not None and known.is_floating_point()
        self.values[name] = known.where(~known.isnan(), value) if partly else value
