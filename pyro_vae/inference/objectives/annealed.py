"""An objective whose KL term is turned on while training goes on."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_vae.foundation.checks import Positive
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.objectives.bounds import ELBO
from pyro_vae.inference.terms import Program, Terms
from pyro_vae.models.conditionals.exact_layers import is_exact
from pyro_vae.models.layers import WARM_UP


def usual_objective(model: Program, guide: Program, epochs: int) -> Objective:
    """The objective of a run where none is asked for: the ELBO, of several layers with their KL turned on slowly.

    Trained by the plain ELBO from the beginning, layers whose KL is not yet worth its price are closed for good. Under
    a guide that is the posterior whatever the model learns there is no such price.
    """
    several = len(getattr(model, "dims", ())) > 1 and not is_exact(guide)
    return Annealed(epochs=WARM_UP * epochs) if several and epochs else ELBO()


class Annealed(Objective):
    """Another objective, with `log p(z) - log q(z|x)` weighed by a factor that grows from 0 to 1 in its first epochs.

    The weight stands where the objective has the KL: before it in `ELBO` and its kin, inside the importance weights of
    `IWAE` and the like, before the target of `Capacity`. What is reported while training is the plain ELBO. Epochs that
    end while the factor is below 1 cannot be the best of a run.

    Args:
        objective: the objective, or a class whose default arguments will do.
        epochs: length of the warm-up; of one cycle for the cyclical shape.
        shape: `'linear'`, from 0 to 1 and then 1; `'cyclical'`, the same over the first half of each cycle, again and
            again to the end of the run.

    Raises:
        InputError: for another shape, for a length that is not positive, or (when training starts) for a warm-up that
            is longer than the run.

    In a loop of one's own, call `advance` with the number of epochs done before each step. Source: Bowman et al. 2016,
    Generating Sentences from a Continuous Space; Sønderby et al. 2016, Ladder Variational Autoencoders; Fu et al. 2019,
    Cyclical Annealing Schedule.

    >>> objective = Annealed(objective=ELBO(num_particles=3), epochs=10)
    >>> objective.advance(2.5)
    >>> objective.num_particles, objective.weight
    (3, tensor(0.2500))
    """

    def __init__(
        self,
        *,
        objective: Objective | Callable[[], Objective] = ELBO,
        epochs: Positive = 10.0,
        shape: Literal["linear", "cyclical"] = "linear",
    ) -> None:
        inner = objective if isinstance(objective, Objective) else objective()
        if not isinstance(inner, Objective):
            raise InputError(
                f"Annealed wraps an Objective of this package, not {type(inner).__name__}"
            )
        super().__init__(num_particles=inner.num_particles)
        self.objective, self.epochs, self.shape = inner, epochs, shape
        self.weight = torch.zeros(())
        self.own_bound, self.across_data = inner.own_bound, inner.across_data

    @property
    def plain(self) -> Objective:
        return self.objective.plain

    @property
    def learned(self) -> nn.Module | None:
        return self.objective.learned

    def connect(self, model: Program, guide: Program) -> None:
        self.objective.connect(model, guide)

    def settled(self, epoch: float) -> bool:
        done = epoch / self.epochs
        if self.shape == "linear":
            return done >= 1 and self.objective.settled(epoch)
        return (done % 1 >= 0.5 or done % 1 == 0) and self.objective.settled(epoch)

    def check(self, t: Terms) -> None:
        self.objective.check(t)

    def prepare(self, size: int, epochs: int) -> None:
        if self.epochs > epochs:
            raise InputError(
                f"the warm-up of Annealed takes {self.epochs:g} epochs and the run has {epochs}; train longer or give "
                f"it epochs={epochs} or fewer"
            )
        self.objective.prepare(size, epochs)

    def advance(self, epoch: float) -> None:
        self.objective.advance(epoch)
        done = epoch / self.epochs
        self.weight.fill_(min(1.0, done if self.shape == "linear" else 2 * (done % 1)))

    def terms_of(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Terms:
        return self.objective.terms_of(model, guide, *args, **kwargs)

    def bound(self, t: Terms) -> Tensor:
        return self.objective.bound(self._weighed(t))

    def loss_of(self, t: Terms) -> Tensor:
        return self.objective.loss_of(self._weighed(t))

    def gain_of(self, t: Terms) -> Tensor:
        return self.objective.gain_of(self._weighed(t))

    def _weighed(self, t: Terms) -> Terms:
        return t._replace(kl_weight=t.kl_weight * self.weight)
