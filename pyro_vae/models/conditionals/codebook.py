"""A guide that takes the nearest word of a codebook."""

import warnings
from typing import Annotated, Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from pyro_vae.distributions.words import Word
from pyro_vae.foundation.abstract import MOST_LISTED, aim, movable
from pyro_vae.foundation.checks import Count, NotNegative, Whole, at_least, share, takes
from pyro_vae.foundation.errors import InputError
from pyro_vae.models.classes import Classifier, Reads
from pyro_vae.models.conditionals.base import HeadGuide
from pyro_vae.models.targets import Regressor

LEAST = 1e-12  # of a moving count, below which its word stays where it is
APART = (
    0.01  # of its length: how far a word may lie from the encoding that it starts at
)
ENCODED = 500  # data at a time


class Codebook(HeadGuide):
    """`q(z|x)` = the words nearest to `h(x)`: z cut into groups, each a word of a learned codebook (VQ-VAE).

    `z = (e_{c_1}, ..., e_{c_G})`, `c_g = argmin_l |h_g(x) - e_l|`, under the prior `Codes`, which is the default with
    this guide. With ELBO the loss is

        -log p(x|z) + G log L + commitment |h(x) - z|^2

    where the gradient of the first term goes from z to h as it is, and the words follow the encodings by moving
    averages of their number and their sum: `N_l <- decay N_l + (1 - decay) n_l`, `m_l` alike, `e_l = m_l / N_l`. They
    start by k-means among the encodings of training data. A word that no datum took in `revive` steps starts again
    at an encoding of the batch. These averages move in training alone.

    Args:
        encoder: any module, `(..., *shape) -> (..., features)`.
        latent_dim: the length of `z`, a multiple of the groups.
        size: L, the words of a group.
        groups: G, in how many words z is cut.
        shared: whether all groups have the same words; otherwise each has its own.
        commitment: weight of the term that holds encodings to their words, in nats.
        decay: of the moving averages.
        revive: steps; 0 leaves unused words where they are.
        features: as in `Guide`.

    Raises:
        InputError: for fewer than two words, or a `latent_dim` that is no multiple of the groups.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, Neural Discrete Representation Learning; the moving averages are
    those of its appendix A.1.

    >>> import torch
    >>> from pyro_vae import MLP
    >>> guide = Codebook(MLP((4,)), 6, size=5, groups=3)
    >>> guide.posterior(torch.zeros(2, 200)).codes.shape
    torch.Size([2, 3])
    """

    usual_prior = "Codes()"
    discrete = True
    words: Tensor
    counts: Tensor
    sums: Tensor
    idle: Tensor
    used: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: Count,
        *,
        size: Annotated[int, at_least(2), takes(16)] = 512,
        groups: Count = 1,
        shared: bool = False,
        commitment: NotNegative = 0.25,
        decay: Annotated[float, share()] = 0.99,
        revive: Whole = 100,
        features: Count | None = None,
    ) -> None:
        if latent_dim % groups:
            raise InputError(
                f"latent_dim={latent_dim} of Codebook is cut into groups={groups} words of one length, so it must be a "
                f"multiple of {groups}"
            )
        super().__init__(encoder, latent_dim, latent_dim, features=features)
        self.size, self.groups, self.commitment = size, groups, commitment
        self.decay, self.revive = decay, revive
        books = 1 if shared else groups
        words = torch.randn(books, size, latent_dim // groups)
        self.register_buffer("words", words)
        self.register_buffer("counts", torch.ones(books, size))
        self.register_buffer("sums", words.clone())
        self.register_buffer("idle", torch.zeros(books, size, dtype=torch.long))
        self.register_buffer("used", torch.zeros(books, size, dtype=torch.long))

    @property
    def codes(self) -> int:
        """How many codes a datum may have, `L^G`."""
        return self.size**self.groups

    @property
    def few(self) -> bool:
        """Whether all codes can be summed over."""
        return self.codes <= MOST_LISTED

    def family(self, parameters: Tensor) -> Distribution:
        h = parameters.to(self.words.dtype).unflatten(-1, (self.groups, -1))
        return Word(h, self.words)

    def given(self, x: Tensor, *c: Tensor) -> Distribution:
        q: Any = self.family(movable(self.site, lambda: self.parameters_given(x, *c)))
        if self.training and torch.is_grad_enabled() and am_i_wrapped():
            apart = (q.encodings - q.words).square().flatten(-2).sum(-1)
            aim("commitment", -self.commitment * apart)
            self._follow(q.encodings.detach(), q.codes)
        return q

    @torch.no_grad()
    def _follow(self, encodings: Tensor, codes: Tensor) -> None:
        """Move the words towards a batch of encodings, `(..., G, D)`, whose codes are `(..., G)`."""
        h, codes = encodings.reshape(-1, *encodings.shape[-2:]), codes.flatten(0, -2)
        levels = torch.arange(self.size, device=codes.device)
        taken = (codes.unsqueeze(-1) == levels).to(h)  # (N, G, L)
        count, total = taken.sum(0), torch.einsum("ngl,ngd->gld", taken, h)
        if len(self.words) < self.groups:
            count, total = count.sum(0, keepdim=True), total.sum(0, keepdim=True)

        # The averages, and the words that they make.
        self.counts.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(total, alpha=1 - self.decay)
        heard = (self.counts > LEAST).unsqueeze(-1)
        means = self.sums / self.counts.clamp_min(LEAST).unsqueeze(-1)
        self.words.copy_(means.where(heard, self.words))

        # How long each was not used.
        self.used.add_(count.long())
        self.idle.copy_((self.idle + 1).masked_fill(count > 0, 0))
        if self.revive:
            self._restart(self.idle >= self.revive, h)

    def _restart(self, dead: Tensor, h: Tensor) -> None:
        """Start some words, `(G or 1, L)`, again at encodings of the batch, `(N, G, D)`."""
        books = len(self.words)
        rows = torch.randint(len(h), dead.shape, device=h.device)
        slots = torch.arange(books, device=h.device).unsqueeze(-1)
        if books < self.groups:
            slots = torch.randint(self.groups, dead.shape, device=h.device)
        near = 1 + APART * torch.rand(*dead.shape, 1, dtype=h.dtype, device=h.device)
        which, fresh = dead.unsqueeze(-1), h[rows, slots] * near
        self.words.copy_(fresh.where(which, self.words))
        self.sums.copy_(fresh.where(which, self.sums))
        self.counts.masked_fill_(dead, 1.0)
        self.idle.masked_fill_(dead, 0)

    @torch.no_grad()
    def start(self, x: Tensor, c: Tensor | None = None) -> None:
        """Let the words begin as the centres of k-means among the encodings of some data, `(n, *shape)`."""
        given = [] if c is None or not self.context else [c.to(self.words)]
        training, parts = self.training, []
        self.eval()
        for rows in torch.arange(len(x)).split(ENCODED):
            some = [values[rows] for values in (x.to(self.words), *given)]
            parts.append(self.parameters_given(*some))
        self.train(training)
        h = torch.cat(parts).to(self.words).unflatten(-1, (self.groups, -1))
        whole = len(self.words) < self.groups
        points = [h.flatten(0, 1)] if whole else h.unbind(1)
        words = torch.stack([centres(some, self.size) for some in points])
        self.words.copy_(words)
        self.sums.copy_(words)
        self.counts.fill_(1.0)
        self.idle.zero_()
        self.used.zero_()

    def counted(self) -> tuple[float, float]:
        """Perplexity of the codes since the last call, the mean over codebooks, and how many words were not used."""
        used = self.used.double()
        self.used.zero_()
        return perplexity(used).mean().item(), float((used == 0).sum())

    def classify(self, classifier: Classifier | Regressor, reads: Reads) -> None:
        raise InputError(
            "the words of Codebook follow one encoding of each datum, and with a y there is one for each: "
            "take the guide categorical, or a structure without y"
        )

    def check_prior(self, prior: Any) -> None:
        if prior is not None and not getattr(prior, "of_words", False):
            raise InputError(
                f"z of the guide Codebook is words of its codebook, and {type(prior).__name__} is no prior over their "
                "codes: take the prior codes"
            )


def perplexity(counts: Tensor) -> Tensor:
    """`exp(-sum_l p_l log p_l)` of counts `(..., L)`: as how many words, equally used, they are worth; nan for none."""
    p = counts / counts.sum(-1, keepdim=True)
    return (-torch.special.xlogy(p, p).sum(-1)).exp()


def centres(points: Tensor, size: int) -> Tensor:
    """The centres of k-means among points `(n, D)`, `(size, D)`; of fewer points, some more beside these."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    found = points.cpu().double()
    few = min(size, len(found.unique(dim=0)))
    seed = int(torch.randint(2**31, ()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(few, n_init=1, random_state=seed).fit(found.numpy())
    words = torch.from_numpy(means.cluster_centers_)
    if few < size:
        more = found[torch.randint(len(found), (size - few,))]
        near = 1 + APART * torch.rand(len(more), 1, dtype=more.dtype)
        words = torch.cat([words, more * near])
    return words.to(points)
