"""One of several fields of a pair, looked at as if it were all of x."""

from typing import Any

from torch import Tensor

from pyro_vae.models.vae import VAE


class OneField:
    """A pair of several fields of which the verbs that make data return one, `(..., *shape)`; they take all of x.

    Args:
        vae: the pair.
        name: of the field.
    """

    def __init__(self, vae: VAE, name: str) -> None:
        likelihood: Any = vae.model.likelihood
        self.vae, self.place = vae, likelihood.names.index(name)
        self.layout = likelihood.layout
        self.model = _OneLikelihood(vae.model, likelihood.members[self.place])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def of(self, x: Tensor) -> Tensor:
        """What data or draws `(..., width)` hold of the field."""
        return self.layout.parts(x)[self.place]

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.of(self.vae.sample(*args, **kwargs))

    def reconstruct(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.of(self.vae.reconstruct(*args, **kwargs))

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        p: Any = self.vae.decode(*args, **kwargs)
        return p.parts[self.place]


class _OneLikelihood:
    """A model of which the likelihood is that of one field."""

    def __init__(self, model: Any, likelihood: Any) -> None:
        self.whole, self.likelihood = model, likelihood

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)
