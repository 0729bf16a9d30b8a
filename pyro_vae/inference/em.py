"""Expectation maximisation: linear-Gaussian pairs and finite mixtures, fitted without gradients."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim import Optimizer

from pyro_vae.engine.processes import Exchange
from pyro_vae.foundation.abstract import context_of
from pyro_vae.foundation.checks import Range, checked
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.objectives import ELBO
from pyro_vae.models.classes import beside, codes
from pyro_vae.models.conditionals.exact import Exact
from pyro_vae.models.finite import OfClass
from pyro_vae.models.likelihoods import Bernoulli, Gaussian, Poisson
from pyro_vae.models.linear import axes
from pyro_vae.models.priors import StandardNormal
from pyro_vae.models.program import named

LEAST = 1e-8  # of the unit that scales count in: how near they come to the least one
RARE = 1e-7  # the least probability of a bit, and the least rate of a count

Decay = Annotated[float, Range(0.5, 1, open_low=True)]
Sums = dict[str, Tensor]


class EM(Optimizer):
    """Expectation maximisation, as the optimizer of a pair with the guide `Exact`.

    The E-step is `q(y, z|x) = p(y, z|x)`, the guide's. The M-step sets what the model learns to
    `argmax sum_n E_q[log p(x_n, z, y)]` in closed form: `W`, `b` and the scales by a regression of x on z, the shares
    of classes where they are learned. So `log p(x)` of the training data rises with each M-step, or stays.

    Of a pair with a vector z the M-step finds mean and covariance of p(z) as well, and counts z in them, so that it is
    N(0, I) again and W and b take up what there was: PX-EM, which rises as EM does, in fewer epochs. As turning z
    changes neither p(z) nor p(x), it ends in its principal axes: the columns of W are orthogonal in units of the noise,
    the longest first, the largest weight of each above zero.

    Args:
        params: the parameters of the pair.
        lr: not used: a step has no rate, and no schedule changes it.
        each: after what the M-step comes: `'epoch'`, when all data were seen, so that the batches change nothing, or
            `'batch'`: stepwise EM, whose sums forget old batches at the rate `(t + 2)^-decay` of the batch t.
        decay: above 0.5, at most 1.

    Raises:
        InputError: by `SVI`, for a pair, an objective or an argument that goes with gradients.

    Source: Dempster, Laird & Rubin 1977; Rubin & Thayer 1982, EM Algorithms for ML Factor Analysis; Ghahramani & Hinton
    1996, The EM Algorithm for Mixtures of Factor Analyzers; Liu, Rubin & Wu 1998, Parameter Expansion to Accelerate
    EM; Cappe & Moulines 2009, Online EM (stepwise).

    >>> from pyro_vae import VAE, Gaussian, StandardNormal, fit
    >>> from pyro_vae.networks import Linear
    >>> _ = torch.manual_seed(0)
    >>> decoder, guide = Linear((1,), (1, 3)), Exact(Linear((3,)), 1)
    >>> vae = VAE(StandardNormal(1), decoder, Gaussian((3,)), guide)
    >>> history = fit(vae, torch.randn(50, 3), epochs=5, optimizer=EM)
    >>> history[4].elbo > history[0].elbo
    True
    """

    @checked
    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        *,
        each: Literal["epoch", "batch"] = "epoch",
        decay: Decay = 0.6,
    ) -> None:
        super().__init__(params, {"lr": lr})
        self.each, self.decay = each, decay
        self.size: int | None = None  # data in an epoch; None: a batch is all of them
        self.exchange: Exchange | None = None  # with other processes
        self._steps: _Mixture | _Linear | None = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing: `take` does the work."""

    @property
    def _sums(self) -> dict[str, Any]:
        """What was added up since the last M-step; a checkpoint holds it as state of the first parameter."""
        first = self.param_groups[0]["params"][0]
        return self.state[first]  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: Any) -> None:
        """Put the sums back as they were, in their own precision."""
        first = self.param_groups[0]["params"][0]
        self.state.clear()
        for sums in state_dict["state"].values():
            self.state[first] = dict(sums)

    def prepare(self, model: Any, guide: Any, objective: Any, **others: float) -> None:
        """Take up a pair.

        Raises:
            InputError: for one that has no M-step in closed form, and for what goes with gradients.
        """
        for name, value in others.items():
            if value:
                raise InputError(
                    f"{name}={value:g} goes with gradients, and EM takes none: leave it out"
                )
        if len(getattr(model, "dims", ())) > 1:
            raise InputError(
                "EM has no M-step for several layers of latents: take an optimizer that follows gradients"
            )
        if type(objective) is not ELBO or objective.beta != 1:
            name = type(objective).__name__
            raise InputError(
                f"EM maximises log p(x) itself, and the objective is {name}: leave it out, or take ELBO()"
            )
        if not isinstance(guide, Exact):
            raise InputError(
                f"EM needs the posterior itself, and the guide is {type(guide).__name__}: take the guide exact"
            )
        self._steps = (_Linear if model.latent_dim else _Mixture)(model, guide)
        _check_learned(model, self._steps)

    @torch.no_grad()
    def take(self, *args: Any, **kwargs: Tensor) -> None:
        """The E-step of a batch, given as to the programs, and the M-step where it is due."""
        assert self._steps is not None
        values = named(args[0] if args else None, kwargs)
        rows = len(values["x"])
        found = self._steps.expected(values) | {"rows": torch.tensor(float(rows))}
        if self.exchange is not None:
            found = self.exchange.sums(found)
            rows = int(found["rows"])
        sums = self._sums
        if self.each == "batch":
            self._forget(sums, {k: v / rows for k, v in found.items()})
            self._steps.maximise(sums)
            return
        for name, value in found.items():
            sums[name] = sums[name] + value if name in sums else value
        if float(sums["rows"]) >= (self.size or rows):
            self._steps.maximise(sums)
            sums.clear()

    def _forget(self, sums: dict[str, Any], found: Sums) -> None:
        """Move the means of a batch into the running ones."""
        t = int(sums["taken"]) if "taken" in sums else 0
        rate = (t + 2) ** -self.decay if t else 1.0
        for name, value in found.items():
            old = sums.get(name, value)
            sums[name] = old + rate * (value - old)
        sums["taken"] = torch.tensor(t + 1)


def _check_learned(model: nn.Module, steps: Any) -> None:
    """Refuse a model that learns what no M-step sets."""
    if not all(p.requires_grad for p in steps.learned):
        raise InputError(
            "EM sets all that the model learns, and some of it is frozen: take an optimizer that follows gradients"
        )
    known = {id(p) for p in steps.learned}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            raise InputError(
                f"EM has no step in closed form for {name} of the model: take an optimizer that follows gradients"
            )


class _Steps:
    """What E- and M-steps share: the shares of classes.

    Attributes:
        learned: the parameters that an M-step sets.
    """

    def __init__(self, model: Any, guide: Exact) -> None:
        self.model, self.guide = model, guide
        self.learned: list[Tensor] = []
        prior = model.class_prior
        self.weights = None
        if model.classes and isinstance(prior.logits, nn.Parameter):
            self.weights = prior.logits
            self.learned.append(prior.logits)

    def _condition(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The condition of a batch without its label, `(B, width)`; None where there is none."""
        c = values.get("c")
        width = self.model.label_width
        return None if c is None or c.shape[-1] == width else c[:, width:]

    def shares(self, values: Mapping[str, Tensor]) -> Tensor:
        """`p(y|x)`, `(K, B)`; of a datum with a label all of it is there; one row where there is no class."""
        x = values["x"]
        if not self.model.classes:
            return x.new_ones(1, len(x)).double()
        c = self._condition(values)
        given = () if c is None else (c,)
        classifier: Any = self.guide.classifier
        shares = classifier(x, *given).probs.double().T
        if "c" in values:
            y = codes(values["c"][:, : self.model.classes])
            at = torch.arange(self.model.classes, device=x.device).unsqueeze(-1) == y
            shares = shares.where(y < 0, at.double())
        return shares

    def _weigh(self, counts: Tensor) -> None:
        """Set p(y) where it is learned, from how many data each class has."""
        if self.weights is not None:
            pi = (counts / counts.sum()).clamp_min(torch.finfo(torch.float32).tiny)
            self.weights.copy_(pi.log())


class _Linear(_Steps):
    """The steps of `p(y) p(z) p(x|z,y)`, `x = W z + V c + b` and noise: a regression of x on `t = (z, 1, c)`.

    Where the weights depend on the context, t is `(z, 1) x (1, c)`. Everything is counted in the units of the
    decoder's output, in float64.
    """

    def __init__(self, model: Any, guide: Exact) -> None:
        super().__init__(model, guide)
        self.layer = _affine(model.decoder)
        self.of_context = getattr(model.decoder, "of_context", None)
        self.of_both = getattr(model.decoder, "of_both", None)
        parts = [self.layer, self.of_context, self.of_both]
        self.learned += [p for part in parts if part for p in part.parameters()]
        if isinstance(model.likelihood.scale, str):
            self.learned.append(model.likelihood.log_scale)
        if type(model.prior) is not StandardNormal:
            raise InputError(
                f"EM leaves p(z) as N(0, I), and the prior is {type(model.prior).__name__}: take standardnormal, "
                "or an optimizer that follows gradients"
            )

    def _contexts(self, values: Mapping[str, Tensor]) -> Tensor:
        """What the decoder is given beside z, behind a one, `(K, B, 1 + context)`."""
        x, size = values["x"], max(self.model.classes, 1)
        ones = x.new_ones(size, len(x), 1)
        y = torch.eye(size).to(x).unsqueeze(1)
        c = self._condition(values)
        known = [] if c is None else [c]
        return beside(ones, *([y] if self.model.of_x.y else []), *known).double()

    def expected(self, values: Mapping[str, Tensor]) -> Sums:
        """`sum_n E[x t]`, `E[t t^T]`, `x^2`, and how many data there are, of each element and of each class.

        Where elements may be missing, `E[t t^T]` is of those data whose element was seen, and `all` that of all data.
        """
        likelihood = self.model.likelihood
        x = values["x"].flatten(1).double()
        shift, spread = likelihood.shift.flatten(), likelihood.spread.flatten()
        seen = ~x.isnan()
        h = ((x - shift) / spread).where(seen, 0.0)

        # The posterior of z for each class, and the moments of t.
        shares, g = self.shares(values), self._contexts(values)
        given = () if not self.model.context else (self._vector(values),)
        loc, tril = self.guide.linear(*given).posterior(x, missing=likelihood.missing)
        covariance = (tril @ tril.mT).double()
        t = self._regressors(loc.double().expand(len(shares), len(x), -1), g)
        weighed = shares.unsqueeze(-1) * t
        xt = h.mT @ weighed.sum(0)

        # One covariance for all data of a class, or one for each datum.
        rows = 1 if covariance.dim() == 2 else covariance.shape[-3]
        covariance = covariance.expand(len(shares), rows, -1, -1)
        each = None
        if rows == 1 and not likelihood.missing:
            gg = g.mT @ (shares.unsqueeze(-1) * g)
            tt = self._of_covariance(covariance[:, 0], gg).sum(0)
            tt = tt + weighed.flatten(0, 1).mT @ t.flatten(0, 1)
        else:
            each = t.new_zeros(())
            for k, share in enumerate(shares):
                gg = g[k].unsqueeze(-1) * g[k].unsqueeze(-2)
                square = t[k].unsqueeze(-1) * t[k].unsqueeze(-2)
                square = square + self._of_covariance(covariance[k], gg)
                each = each + share.view(-1, 1, 1) * square
            tt = each.sum(0)

        # Where elements are missing, each has a regression of its own.
        whole = {}
        if likelihood.missing:
            assert each is not None
            whole = {"all": tt}
            tt = torch.einsum("bx,bst->xst", seen.double(), each)
        return {
            **whole,
            "xt": xt,
            "tt": tt,
            "xx": h.square().sum(0),
            "seen": seen.double().sum(0),
            "counts": shares.sum(1),
        }

    def _vector(self, values: Mapping[str, Tensor]) -> Tensor:
        """The condition that the guide reads, one for each class where there are some, `(K, 1 or B, context)`."""
        c = self._condition(values)
        if not self.model.classes:
            assert c is not None
            return c
        y = torch.eye(self.model.classes).to(values["x"]).unsqueeze(1)
        return beside(y, *([] if c is None else [c]))

    def _regressors(self, z: Tensor, g: Tensor) -> Tensor:
        """t, `(K, B, T)`, of z and of what the decoder is given beside it."""
        if self.of_both is None:
            return torch.cat([z, g], -1)
        u = torch.cat([z, torch.ones_like(z[..., :1])], -1)
        return (g.unsqueeze(-1) * u.unsqueeze(-2)).flatten(-2)

    def _of_covariance(self, covariance: Tensor, gg: Tensor) -> Tensor:
        """What the covariance of z, `(..., D, D)`, adds to `E[t t^T]`, weighed by `g g^T`, `(..., G, G)`."""
        if self.of_both is None:
            width = gg.shape[-1]
            return pad(gg[..., :1, :1] * covariance, (0, width, 0, width))
        uu = pad(covariance, (0, 1, 0, 1))
        tt = gg[..., :, None, :, None] * uu[..., None, :, None, :]
        return tt.flatten(-4, -3).flatten(-2)

    def maximise(self, sums: Sums) -> None:
        """Set the parameters to the best for these sums, and count z, in them too, in its own axes."""
        xt, tt = sums["xt"].unsqueeze(-1), sums["tt"]
        theta = (torch.linalg.pinv(tt, hermitian=True) @ xt).squeeze(-1)
        fitted = (tt @ theta.unsqueeze(-1)).squeeze(-1)
        left = sums["xx"] + (theta * (fitted - 2 * sums["xt"])).sum(-1)
        set_scale(self.model.likelihood, left.clamp_min(0.0), sums["seen"])
        self._weigh(sums["counts"])
        theta, turn = self._turned(theta, sums.get("all", tt))
        sums["xt"] = sums["xt"] @ turn.mT
        for name in {"tt", "all"} & sums.keys():
            sums[name] = turn @ sums[name] @ turn.mT
        self._set(theta)

    def _turned(self, theta: Tensor, tt: Tensor) -> tuple[Tensor, Tensor]:
        """The regression, `(X, T)`, on t whose z is counted in its own axes, and what makes that t of t, `(T, T)`."""
        size, classes = self.model.latent_dim, self.model.classes
        scale, turn = self._scale(), torch.eye(theta.shape[-1]).to(theta)
        u = slice(size + 1)
        if self.of_both is None:
            turn[u, u], back = _own_axes(theta[:, u], tt[u, u], scale)
            return torch.cat([theta[:, u] @ back, theta[:, size + 1 :]], -1), turn
        if context_of(self.model.decoder) > classes:
            return theta, turn  # axes that move with a condition are those of no z

        # t = (z, 1) x (1, y): each class has a block, and the first is their sum.
        parts = theta.unflatten(-1, (1 + classes, size + 1))
        moments = tt.unflatten(-1, (1 + classes, -1)).unflatten(0, (1 + classes, -1))
        first, turned = parts[:, 0], [parts[:, 0]]
        blocks = turn.view(1 + classes, size + 1, 1 + classes, size + 1)
        blocks[0, :, 0] = 0
        for k in range(1, 1 + classes):
            own = _own_axes(first + parts[:, k], moments[k, :, k], scale)
            blocks[0, :, k] = blocks[k, :, k] = own[0]
            turned.append((first + parts[:, k]) @ own[1] - first)
        return torch.cat(turned, -1), turn

    def _scale(self) -> Tensor:
        """The scale of each element, `(X,)` in the units of the decoder's output."""
        likelihood = self.model.likelihood
        h = torch.zeros(1, likelihood.channels, *likelihood.shape).to(likelihood.spread)
        p = likelihood(h)
        scale = getattr(p, "whole", p).base_dist.scale / likelihood.spread
        return scale.flatten().double()

    def _set(self, theta: Tensor) -> None:
        """Write the regression, `(X, T)`, into the decoder."""
        size, width = self.model.latent_dim, context_of(self.model.decoder)
        if self.of_both is None:
            weight, bias, of_context = theta.split([size, 1, width], -1)
        else:
            first, others = theta.split([size + 1, width * (size + 1)], -1)
            weight, bias = first[:, :size], first[:, size:]
            others = others.unflatten(-1, (width, size + 1))
            self.of_both.weight.copy_(others[..., :size].flatten(1))
            of_context = others[..., size]
        self.layer.weight.copy_(weight)
        self.layer.bias.copy_(bias[:, 0])
        if self.of_context is not None:
            self.of_context.weight.copy_(of_context)


def _own_axes(theta: Tensor, uu: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """What counts `u = (z, 1)` in the deviations of z from its mean along principal axes, and its inverse, `(U, U)`.

    Args:
        theta: the regression of x on u, `(X, U)`.
        uu: `sum_n E[u u^T]`, `(U, U)`.
        scale: of the noise, `(X,)`.
    """
    there, back = torch.eye(len(uu)).to(uu), torch.eye(len(uu)).to(uu)
    if uu[-1, -1] <= LEAST:
        return there, back  # a class that no datum is in
    mean = uu[:-1, -1] / uu[-1, -1]
    factor, failed = torch.linalg.cholesky_ex(
        uu[:-1, :-1] / uu[-1, -1] - mean.outer(mean)
    )
    if failed:
        return there, back
    factor = factor @ axes(theta[:, :-1] @ factor, scale)
    back[:-1, :-1], back[:-1, -1] = factor, mean
    return torch.linalg.inv(back), back


class _Mixture(_Steps):
    """The steps of `p(y) p(x|y)`: the moments of x in each class."""

    def __init__(self, model: Any, guide: Exact) -> None:
        super().__init__(model, guide)
        decoder, likelihood = model.decoder, model.likelihood
        if type(likelihood) not in (Bernoulli, Gaussian, Poisson) or likelihood.sized:
            raise InputError(
                f"EM has an M-step for a mixture of Gaussian, Bernoulli or Poisson parts, and the likelihood is "
                f"{type(likelihood).__name__}: take an optimizer that follows gradients"
            )
        if decoder.context > decoder.size:
            raise InputError(
                "EM has no step in closed form for a mixture with a condition: take an optimizer that follows gradients"
            )
        self.layer = _affine(decoder.network)
        self.learned += [*self.layer.parameters()]
        if isinstance(likelihood, Gaussian) and isinstance(likelihood.scale, str):
            own = [] if likelihood.scale == "network" else [likelihood.log_scale]
            self.learned += own

    def expected(self, values: Mapping[str, Tensor]) -> Sums:
        """`sum_n p(y|x_n)` times 1, x and x^2, of each class and element, and how many data each class has."""
        x, shares = values["x"].flatten(1).double(), self.shares(values)
        seen = ~x.isnan()
        x = x.where(seen, 0.0)
        if isinstance(self.model.likelihood, Gaussian):
            likelihood = self.model.likelihood
            h = (x - likelihood.shift.flatten()) / likelihood.spread.flatten()
            x = h.where(seen, 0.0)
        return {
            "seen": shares @ seen.double(),
            "x": shares @ x,
            "xx": shares @ x.square(),
            "counts": shares.sum(1),
        }

    def maximise(self, sums: Mapping[str, Tensor]) -> None:
        """Set the parameters to the best for these sums."""
        seen = sums["seen"].clamp_min(torch.finfo(torch.float64).tiny)
        likelihood, mean = self.model.likelihood, sums["x"] / seen  # (K, X)
        left = (sums["xx"] - sums["x"] * mean).clamp_min(0.0)
        match likelihood:
            case Bernoulli():
                h = torch.logit(mean.clamp(RARE, 1 - RARE))
            case Poisson():
                h = mean.clamp_min(RARE).log()
            case _:
                h = mean
                if likelihood.scale == "network":
                    scale = (left / seen).sqrt()
                    h = torch.cat([mean, log_scale_of(likelihood, scale)], -1)
                else:
                    set_scale(likelihood, left.sum(0), sums["seen"].sum(0))
        # A class that no datum is in stays where it was.
        there = (sums["counts"] > LEAST).unsqueeze(-1)
        before = (self.layer.weight + self.layer.bias.unsqueeze(-1)).T
        h = h.where(there, before.double())
        self.layer.bias.copy_(h.mean(0))
        self.layer.weight.copy_((h - h.mean(0)).T)
        self._weigh(sums["counts"])


def _affine(decoder: Any) -> nn.Linear:
    """The one layer of a linear decoder.

    Raises:
        InputError: for another.
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.Sequential) or [*map(type, layers)] != [
        type(decoder.output_layer)
    ]:
        raise InputError(
            f"EM needs a linear decoder, and it is {type(decoder).__name__}: take the network linear"
        )
    return layers[0]  # type: ignore[return-value]


def log_scale_of(likelihood: Any, scale: Tensor) -> Tensor:
    """The `log_scale` at which elements have these scales, `(..., X)` in units of `spread`, or nearly the least one."""
    least = likelihood.least.flatten() / likelihood.spread.flatten()
    return (scale - least).clamp_min(LEAST).log()


def set_scale(likelihood: Any, left: Tensor, seen: Tensor) -> None:
    """Set the learned scale of a Gaussian to the best for squared errors that are left, `(X,)` sums in its units.

    Args:
        likelihood: a `Gaussian`.
        left: `sum_n (x_n - mean_n)^2` of each element.
        seen: over how many data.
    """
    if not isinstance(likelihood.scale, str) or likelihood.scale == "network":
        return
    if likelihood.scale == "element":
        scale = (left / seen.clamp_min(1)).sqrt()
        likelihood.log_scale.copy_(
            log_scale_of(likelihood, scale).view_as(likelihood.log_scale)
        )
        return
    least = likelihood.least.flatten() / likelihood.spread.flatten()
    if bool((least == least[0]).all()):
        one = (left.sum() / seen.sum()).sqrt()
        likelihood.log_scale.copy_((one - least[0]).clamp_min(LEAST).log())
        return
    likelihood.log_scale.copy_(_best_of_one(likelihood.log_scale, left, seen, least))


def _best_of_one(now: Tensor, left: Tensor, seen: Tensor, least: Tensor) -> Tensor:
    """The one `log_scale` of elements with least scales of their own, by a search; never worse than `now`."""
    from scipy.optimize import minimize_scalar

    def cost(log_scale: float) -> float:
        scale = least + math.exp(log_scale)
        return float((seen * scale.log() + left / (2 * scale.square())).sum())

    widest = float((left / seen.clamp_min(1)).sqrt().max()) + 1
    bounds = (math.log(LEAST), math.log(widest))
    found = minimize_scalar(cost, bounds=bounds, method="bounded").x
    better = cost(found) < cost(float(now))
    return torch.tensor(found if better else float(now)).to(now)


def mixture_start(vae: Any, x: Tensor) -> bool:
    """Let the classes of a pair with an exact guide begin as the clusters that k-means finds; whether they do.

    Each class begins with the mean of its cluster, as far as the decoder is linear and p(x|z,y) depends on y.

    Args:
        vae: a pair.
        x: training data, some of them `(N, *shape)`.

    Source: Arthur & Vassilvitskii 2007, k-means++.
    """
    from sklearn.cluster import KMeans

    model = vae.model
    decoder = (
        model.decoder.network if isinstance(model.decoder, OfClass) else model.decoder
    )
    applies = isinstance(vae.guide, Exact) and model.classes and model.of_x.y
    try:
        layer = _affine(decoder) if applies else None
    except InputError:
        return False
    if layer is None or len(x) < model.classes:
        return False

    # Elements that were not seen stand at their mean.
    rows = x.flatten(1).double()
    mean = rows.nanmean(0).nan_to_num()
    rows = rows.where(~rows.isnan(), mean)
    seed = int(torch.randint(2**31, ()))
    spread = rows.std(0)
    units = rows / spread.where(spread > 0, 1.0)
    found = KMeans(model.classes, n_init=5, random_state=seed).fit_predict(units.cpu())
    labels = torch.from_numpy(found).to(x.device)

    # The decoder's output for each cluster.
    outputs = []
    for k in range(model.classes):
        few = rows[labels == k].to(x).view(-1, *x.shape[1:])
        deviation = few.std(0, correction=0)
        h = model.likelihood.starting_output(few.mean(0), deviation)
        if h is None:
            return False
        outputs.append(h.flatten())
    h = torch.stack(outputs)
    with torch.no_grad():
        of_class = layer if isinstance(model.decoder, OfClass) else decoder.of_context
        layer.bias.copy_(h.mean(0))
        of_class.weight[:, : model.classes] = (h - h.mean(0)).T
    return True
