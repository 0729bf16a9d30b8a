"""An objective with a network of its own, which tells draws of q(z) from draws of its marginals."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from pyro_vae.foundation.checks import Count, NotNegative
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import affordable
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.terms import Program, Terms

COPIES = 16  # bytes of a weight, with its gradient and Adam's two averages
SLOPE = 0.2  # of a hidden unit below 0


class FactorVAE(Objective):
    """`E_q[log p(x|z)] - KL(q(z|x) || p(z)) - gamma TC(z)`, `TC = KL(q(z) || prod_d q(z_d))` by a density ratio.

    A network T, the discriminator, is trained beside the pair to tell draws z of a batch from the same draws with each
    latent permuted among the data by itself, which are draws of `prod_d q(z_d)`:
    `min_T E_q(z)[log(1 + e^-T(z))] + E_prod q(z_d)[log(1 + e^T(z))]`, whose best is `T = log q(z) - log prod_d q(z_d)`;
    so `TC = E_q(z)[T(z)]`. Its loss reaches T alone and the penalty the pair alone: one backward pass gives both
    gradients, and one optimizer takes both steps. T starts at 0.

    `SVI` and `fit` here train T, and refuse a pair that is trained by Pyro's rules; `pyro.infer.SVI` does not
    know of it. A loop of one's own trains the parameters of `objective.learned` with those of the pair. An objective
    that is used again goes on with its T, which takes the type and the device of the pair that it is trained beside; T
    of draws of another type is computed in theirs. Several latent vectors stand side by side as one. A permuted latent
    is its own with a probability of one over the batch size, which makes TC slightly too small.

    Args:
        gamma: weight of the total correlation, beside the one that the KL has.
        hidden: widths of the hidden layers of T, leaky rectified.
        num_particles: draws averaged for each datum.

    Raises:
        InputError: for a negative weight.

    Source: Kim & Mnih 2018, Disentangling by Factorising (there with a second batch for the permuted codes); Sugiyama,
    Suzuki & Kanamori 2012, Density-Ratio Matching under the Bregman Divergence.
    """

    across_data = True
    needs = ("prior", "gradient", "spread")

    def __init__(
        self,
        *,
        gamma: NotNegative = 10.0,
        hidden: tuple[Count, ...] = (200, 200, 200),
        num_particles: Count = 1,
    ) -> None:
        super().__init__(num_particles=num_particles)
        self.gamma, self.hidden = gamma, hidden
        self.discriminator: nn.Sequential | None = None

    @property
    def learned(self) -> nn.Module | None:
        return self.discriminator

    def connect(self, model: Program, guide: Program) -> None:
        width = getattr(model, "latent_dim", None)
        if not width:
            raise InputError(
                "FactorVAE compares the latents of a VAE of this package with each other, and this pair has no z; take "
                "ELBO"
            )
        parameters = [*getattr(model, "parameters", list)()]
        like = parameters[0] if parameters else torch.empty(0)
        if self._width not in (0, width):
            self.discriminator = None  # that of another pair
        self._of(like.new_empty(0, width)).to(like.device, like.dtype)

    def total_correlation(self, z: Tensor) -> Tensor:
        """`T(z)`, whose mean over draws of q(z) is the estimate of TC in nats: `(..., D)` -> `(...)`, T held fixed.

        Raises:
            InputError: for latents of another number than those of T.
        """
        network = self._of(z)
        fixed = {name: p.detach().to(z) for name, p in network.named_parameters()}
        out: Tensor = functional_call(network, fixed, (z,))
        return out.squeeze(-1)

    def bound(self, t: Terms) -> Tensor:
        bound = (t.log_px + t.weigh(t.log_pz - t.log_qz)).mean(0)
        correlation = self.total_correlation(_codes(t)).mean(0)
        return bound - t.weigh(self.gamma * correlation)

    def gain_of(self, t: Terms) -> Tensor:
        loss = self.discriminating(_codes(t).detach())
        return super().gain_of(t) - (loss - loss.detach())

    def discriminating(self, z: Tensor) -> Tensor:
        """What T is trained to make small, for each datum: `(num_particles, batch, D)` -> `(batch,)`."""
        order = torch.rand(z.shape, device=z.device).argsort(1)
        network = self._of(z)
        like = next(network.parameters())
        z, order = z.to(like), order.to(like.device)
        together, apart = network(z), network(z.gather(1, order))
        return (softplus(-together) + softplus(apart)).squeeze(-1).mean(0)

    @property
    def _width(self) -> int:
        """Of the latents that T is for; 0 where there is none yet."""
        first: Any = None if self.discriminator is None else self.discriminator[0]
        return 0 if first is None else int(first.in_features)

    def _of(self, z: Tensor) -> nn.Sequential:
        """T, made for latents like these where there is none."""
        if self.discriminator is None:
            network = _network((z.shape[-1], *self.hidden, 1))
            self.discriminator = network.to(z.device, z.dtype)
        if z.shape[-1] != self._width:
            raise InputError(
                f"the discriminator of FactorVAE is for {self._width} latents, and these are {z.shape[-1]}"
            )
        return self.discriminator


def _network(widths: tuple[int, ...]) -> nn.Sequential:
    """Dense layers with leaky rectifiers between them, the last of which starts at 0."""
    size = sum(math.prod(pair) for pair in itertools.pairwise(widths))
    affordable(COPIES * size, f"hidden={widths[1:-1]} of FactorVAE")
    layers: list[nn.Module] = []
    for width, wider in itertools.pairwise(widths):
        layers += [nn.Linear(width, wider), nn.LeakyReLU(SLOPE)]
    last: Any = layers[-2]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers[:-1])


def _codes(t: Terms) -> Tensor:
    """All latents that are vectors side by side, `(num_particles, batch, D)`; a real target beside them is none.

    Where none is a vector, all that are drawn.
    """
    latents = [s for s in t.sites.values() if s.q is not None and s.p is not None]
    drawn = [s.value for s in latents if s.drawn]
    vectors = [value.flatten(2) for value in drawn if value.dim() > 2]
    return torch.cat(vectors or [value.unsqueeze(-1) for value in drawn], -1)
