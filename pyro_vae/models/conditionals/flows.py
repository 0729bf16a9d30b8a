"""Guides that bend a Gaussian: normalizing flows. `log q(z|x)` of a draw comes from the pass that made it."""

from typing import Annotated, Any, Literal

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn
from torch.nn.functional import linear

from pyro_vae.distributions import DiagonalNormal
from pyro_vae.distributions import pushforward as flows
from pyro_vae.distributions.pushforward import Pushforward
from pyro_vae.distributions.zuko import flow
from pyro_vae.foundation.checks import Count, Layers, between
from pyro_vae.models.conditionals.base import HeadGuide


class Planar(HeadGuide):
    """`z = f_T(... f_1(z_0))`, `f(z) = z + u(x) tanh(w(x).z + b(x))`, `z_0` as under `MeanField`.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        transforms: T.
        features: as in `Guide`.

    Raises:
        InputError: for fewer than one transform.

    Source: Rezende & Mohamed 2015, Variational Inference with Normalizing Flows.

    >>> from pyro_vae import MLP
    >>> Planar(MLP((4,)), 2, transforms=4).posterior(torch.zeros(3, 200)).sample().shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        transforms: Layers = 10,
        features: Count | None = None,
    ) -> None:
        d = latent_dim
        super().__init__(
            encoder, d, 2 * d + transforms * (2 * d + 1), features=features
        )
        self.transforms = transforms
        self.narrow(slice(d, 2 * d))
        self.shrink(slice(2 * d, (2 + transforms) * d), 0.01)  # u: nearly the identity

    def family(self, parameters: Tensor) -> Distribution:
        d, t = self.latent_dim, self.transforms
        loc, log_scale, u, w, b = parameters.split([d, d, t * d, t * d, t], -1)
        u, w = u.unflatten(-1, (t, d)), w.unflatten(-1, (t, d))
        steps = [
            flows.PlanarStep(u[..., i, :], w[..., i, :], b[..., i]) for i in range(t)
        ]
        return Pushforward(DiagonalNormal(loc, log_scale), steps)


class Householder(HeadGuide):
    """`q(z|x) = N(z; loc(x), U(x) diag(scale(x)^2) U(x)^T)`, `U` a product of reflections `I - 2 v v^T / |v|^2`.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        transforms: number of reflections.
        features: as in `Guide`.

    Raises:
        InputError: for fewer than one transform.

    Source: Tomczak & Welling 2016, Improving Variational Auto-Encoders using Householder Flow (there the mean is turned
    too, which changes its coordinates and not the family).

    >>> from pyro_vae import MLP
    >>> Householder(MLP((4,)), 2).posterior(torch.zeros(3, 200)).sample().shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        transforms: Layers = 8,
        features: Count | None = None,
    ) -> None:
        super().__init__(
            encoder, latent_dim, (2 + transforms) * latent_dim, features=features
        )
        self.transforms = transforms
        self.narrow(slice(latent_dim, 2 * latent_dim))
        self.shrink(slice(2 * latent_dim, None), 0.01)
        with (
            torch.no_grad()
        ):  # pairs of reflections that undo each other: nearly the identity
            pairs = torch.randn(-(-transforms // 2), latent_dim).repeat_interleave(
                2, 0
            )[:transforms]
            self.head.bias[2 * latent_dim :] = pairs.flatten()

    def family(self, parameters: Tensor) -> Distribution:
        d, t = self.latent_dim, self.transforms
        loc, log_scale, v = parameters.split([d, d, t * d], -1)
        turn = flows.Reflections(loc, v.unflatten(-1, (t, d)))
        return Pushforward(DiagonalNormal(torch.zeros_like(loc), log_scale), [turn])


class Sylvester(HeadGuide):
    """`z = f_T(... f_1(z_0))`, `f(z) = z + Q R tanh(R' Q^T z + b)`, all made from x, `z_0` as under `MeanField`.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: D, the length of `z`.
        transforms: T.
        kind: what Q is: `'orthogonal'`, `columns` orthonormal columns; `'householder'`, a product of `columns`
            reflections; `'triangular'`, the identity and the reversal in turn.
        columns: M of `'orthogonal'` (at most D count), or the number of reflections.
        features: as in `Guide`.

    Raises:
        InputError: for another `kind`, or for fewer than one transform or column.

    Source: van den Berg, Hasenclever, Tomczak & Welling 2018, Sylvester Normalizing Flows for Variational Inference.

    >>> from pyro_vae import MLP
    >>> Sylvester(MLP((4,)), 2, kind="triangular").posterior(torch.zeros(3, 200)).sample().shape
    torch.Size([3, 2])
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        transforms: Layers = 4,
        kind: Literal["orthogonal", "householder", "triangular"] = "orthogonal",
        columns: Count = 8,
        features: Count | None = None,
    ) -> None:
        d, t = latent_dim, transforms
        self._m = min(columns, d) if kind == "orthogonal" else d
        rows, cols = torch.triu_indices(self._m, self._m, offset=1)
        q = (
            0
            if kind == "triangular"
            else d * (self._m if kind == "orthogonal" else columns)
        )
        self._sizes = [
            d,
            d,
            *(t * n for n in (self._m, len(rows), self._m, len(rows), self._m, q)),
        ]
        super().__init__(encoder, d, sum(self._sizes), features=features)
        self.transforms, self.kind = transforms, kind
        self.narrow(slice(d, 2 * d))
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", cols, persistent=False)
        # R: nearly the identity.
        self.shrink(slice(2 * d, 2 * d + sum(self._sizes[2:4])), 0.01)

    def family(self, parameters: Tensor) -> Distribution:
        t = self.transforms
        loc, log_scale, *rest = parameters.split(self._sizes, -1)
        diagonal1, above1, diagonal2, above2, b, q = (
            p.unflatten(-1, (t, -1)) for p in rest
        )
        # (..., t, M, M)
        r1, r2 = (
            self._upper(diagonal1, above1),
            self._upper(diagonal2, above2),
        )
        basis = self._basis(q)
        steps = [
            flows.SylvesterStep(
                basis[..., i, :, :], r1[..., i, :, :], r2[..., i, :, :], b[..., i, :]
            )
            for i in range(t)
        ]
        return Pushforward(DiagonalNormal(loc, log_scale), steps)

    def _upper(self, diagonal: Tensor, above: Tensor) -> Tensor:
        matrix = torch.diag_embed(torch.tanh(diagonal))
        matrix[..., self.rows, self.columns] = above
        return matrix

    def _basis(self, q: Tensor) -> Tensor:
        """Q for each transform, `(..., t, D, M)`."""
        d = self.latent_dim
        identity = torch.eye(d, dtype=q.dtype, device=q.device)
        if self.kind == "triangular":
            return torch.stack(
                [
                    identity.flip(0) if i % 2 else identity
                    for i in range(self.transforms)
                ]
            )
        vectors = q.unflatten(-1, (d, -1))
        if self.kind == "orthogonal":
            return torch.linalg.qr(vectors).Q
        unit = vectors / vectors.norm(dim=-2, keepdim=True)
        basis = identity
        for v in unit.unbind(-1):
            basis = basis - 2 * v.unsqueeze(-1) * (v.unsqueeze(-2) @ basis)
        return basis


class _MaskedNetwork(nn.Module):
    """`(z, context) -> (m, s)` with `m_d, s_d` functions of `z_<d` (or, reversed, of `z_>d`) and of the context.

    Source: Germain, Gregor, Murray & Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation.
    """

    def __init__(
        self, d: int, context: int, hidden: tuple[int, ...], *, reverse: bool
    ) -> None:
        super().__init__()
        degrees = [torch.arange(d).flip(0) if reverse else torch.arange(d)]
        degrees += [torch.arange(width) % max(d - 1, 1) for width in hidden]
        outputs = degrees[0].repeat(2)
        layers = []
        for i, (before, after) in enumerate(
            zip(degrees, [*degrees[1:], outputs], strict=True)
        ):
            layers.append(nn.Linear(len(before), len(after)))
            last = i == len(hidden)
            mask = before < after[:, None] if last else before <= after[:, None]
            self.register_buffer(
                f"mask_{i}", mask.to(torch.get_default_dtype()), persistent=False
            )
        self.layers = nn.ModuleList(layers)
        self.conditions = nn.Linear(context, hidden[0] if hidden else 2 * d, bias=False)
        with torch.no_grad():  # nearly the identity
            layers[-1].weight.mul_(0.01)
            layers[-1].bias.zero_()

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = z
        layers: Any = self.layers
        for i, layer in enumerate(layers):
            h = linear(h, layer.weight * getattr(self, f"mask_{i}"), layer.bias)
            if i == 0:
                h = h + self.conditions(context)
            if i < len(self.layers) - 1:
                h = torch.relu(h)
        shift, s = h.chunk(2, -1)
        return shift, s / (1 + s.abs() / 5)  # scales between exp(-5) and exp(5)


class IAF(HeadGuide):
    """`z = f_T(... f_1(z_0))`, `f(z)_d = m_d(z_<d; x) + z_d exp(s_d(z_<d; x))`: inverse autoregressive flow.

    The order of the latents is reversed from one transform to the next; `m` and `s` come from one masked network per
    transform, `z_0` is as under `MeanField`. Drawing takes one pass; the density at other latents than its own draws
    takes D passes for each transform.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: D, the length of `z`.
        transforms: T.
        hidden: widths of the masked networks.
        context: how many numbers made from x the masked networks see.
        features: as in `Guide`.

    Raises:
        InputError: for a number below 1.

    Source: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow.

    >>> from pyro_vae import MLP
    >>> IAF(MLP((4,)), 2, hidden=(32,)).posterior(torch.zeros(3, 200)).sample().shape
    torch.Size([3, 2])
    """

    quick_density = False

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        transforms: Layers = 2,
        hidden: tuple[Count, ...] = (200,),
        context: Count = 50,
        features: Count | None = None,
    ) -> None:
        super().__init__(
            encoder, latent_dim, 2 * latent_dim + context, features=features
        )
        self.narrow(slice(latent_dim, 2 * latent_dim))
        self.networks = nn.ModuleList(
            _MaskedNetwork(latent_dim, context, hidden, reverse=i % 2 == 1)
            for i in range(transforms)
        )

    def family(self, parameters: Tensor) -> Distribution:
        d = self.latent_dim
        loc, log_scale, context = parameters.split(
            [d, d, parameters.shape[-1] - 2 * d], -1
        )
        return Pushforward(
            DiagonalNormal(loc, log_scale),
            [flows.Autoregressive(net, context) for net in self.networks],
        )


class NSF(HeadGuide):
    """`z = loc(x) + scale(x) f_T(... f_1(e; x))`, `e ~ N(0, I)`, f coupling layers of rational-quadratic splines.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`.
        transforms: T; which half of the latents is moved alternates.
        bins: knots of each spline on [-5, 5]; outside it is the identity.
        hidden: widths of the coupling networks.
        context: how many numbers made from x the coupling networks see.
        features: as in `Guide`.

    Raises:
        InputError: for a number below 1 (bins: below 2).

    Source: Durkan, Bekasov, Murray & Papamakarios 2019, Neural Spline Flows; the layers are those of zuko.

    >>> from pyro_vae import MLP
    >>> NSF(MLP((4,)), 2, hidden=(32,)).posterior(torch.zeros(3, 200)).sample().shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        transforms: Layers = 2,
        bins: Annotated[int, between(2, 1000)] = 8,
        hidden: tuple[Count, ...] = (100,),
        context: Count = 50,
        features: Count | None = None,
    ) -> None:
        super().__init__(
            encoder, latent_dim, 2 * latent_dim + context, features=features
        )
        self.narrow(slice(latent_dim, 2 * latent_dim))
        self.flow = flow(
            "nsf", latent_dim, context, transforms=transforms, hidden=hidden, bins=bins
        )

    def family(self, parameters: Tensor) -> Distribution:
        d = self.latent_dim
        loc, log_scale, context = parameters.split(
            [d, d, parameters.shape[-1] - 2 * d], -1
        )
        noise = DiagonalNormal(torch.zeros_like(loc), torch.zeros_like(loc))
        return Pushforward(
            noise, [flows.Zuko(self.flow, context), flows.AffineStep(loc, log_scale)]
        )
