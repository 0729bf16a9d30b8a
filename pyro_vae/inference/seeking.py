"""Where parts of p(z) start: a mixture of Gaussians among the codes of a pair that was trained without them."""

import warnings
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.data.fields import Data, evenly
from pyro_vae.data.inputs import as_data, fields_of
from pyro_vae.data.streams import batches
from pyro_vae.foundation.abstract import running
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.em import mixture_start
from pyro_vae.inference.objectives import ELBO
from pyro_vae.inference.svi import SVI
from pyro_vae.models.conditionals import Exact, Guide
from pyro_vae.models.priors import Codes
from pyro_vae.networks.corruptions import clean

SAMPLE = 10_000  # data among whose codes clusters are sought
STEPS = 2000  # of training before they are, unless said otherwise
FITTING = 1000  # steps in which p(z|y) and q(y|x) follow what was found
BATCH = 200
RATES = {"prior": 1e-2, "classifier": 1e-3}
FIRST = 200  # steps in which labelled data are learned alone, unless said otherwise
FEW = 0.05  # of the data have a label, where that is worth while
TRIES = 5  # starts of the mixture, of which the best counts


def epochs_before(steps: int, epochs: int) -> int:
    """After how many epochs of so many steps clusters are sought by default: 2,000 steps, at most half of the run."""
    return max(1, min(-(-STEPS // steps), epochs // 2))


def has_labels(data: Any) -> bool:
    """Whether some of the data have a label."""
    return bool(_labelled(data).any())


def all_labelled(svi: SVI, data: Any) -> bool:
    """Whether all data have a label, and a pair enumerates nothing but their class."""
    return _enumerates_classes(svi) and bool(_labelled(data).all())


def _enumerates_classes(svi: SVI) -> bool:
    """Whether a class is all that a pair enumerates."""
    guide: Any = svi.guide
    if not getattr(svi.model, "classes", 0) or not isinstance(guide, Guide):
        return False
    return [f.site for f in guide.factors() if f.listed] == ["y"]


def steps_of_labels(vae: Any, data: Any) -> int:
    """In how many steps the labelled among some data are learned alone at first; 0 where they are not."""
    depends = vae.classes > 0 and vae.model.of_x.y and vae.guide.classifier.weight > 0
    if not depends or vae.labels_first == 0:
        return 0
    share = float(_labelled(data).float().mean())
    if vae.labels_first is None:
        return FIRST if 0 < share < FEW else 0
    return int(vae.labels_first) if share > 0 else 0


def _labelled(data: Any) -> Tensor:
    """Which data have a label, `(N,)` booleans."""
    _, c = fields_of(data)
    if c is None:
        return torch.zeros(len(data), dtype=torch.bool)
    return ~c[:, 0].isnan()


def learn_labels(vae: Any, data: Any, steps: int) -> None:
    """Train a pair on those of the data that have a label, so many steps by Adam at 0.001, and the ELBO.

    Few labels among many data come too late: by the time they were all seen y stands for something else.
    """
    if not steps:
        return
    vae.train()
    data = as_data(vae.model, data)
    rows = _labelled(data).nonzero().flatten().cpu()
    adam = partial(torch.optim.Adam, lr=1e-3)
    svi = SVI(vae.model, vae.guide, adam, ELBO(), reduction="mean")
    with svi.labelled(_enumerates_classes(svi)):
        for _ in range(steps):
            svi.step(data[rows[torch.randperm(len(rows))[:BATCH]]])


def begin(vae: Any, data: Any) -> str | None:
    """What a fresh pair does before its first epoch, where it does anything: a sentence that says it.

    Classes of an exact guide begin as the clusters of k-means, and few labels are learned first.
    """
    steps = steps_of_labels(vae, data)
    if steps:
        learn_labels(vae, data, steps)
        return f"those that there are learned first, in {steps} steps"
    if isinstance(vae.guide, Exact) and vae.classes and not has_labels(data):
        few = as_data(vae.model, data)[evenly(SAMPLE, len(data))]
        if mixture_start(vae, fields_of(few)[0]):
            return "they begin as the clusters of k-means"
    return None


class Mixture(NamedTuple):
    """K Gaussians with diagonal covariances among N codes: `(N, K)`, `(K,)`, `(K, D)` and `(K, D)`."""

    shares: Tensor  # responsibilities
    weights: Tensor
    loc: Tensor
    scale: Tensor


def parts_of_prior(vae: Any) -> tuple[int, str]:
    """How many parts p(z) has that can be sought, and what they are: clusters, or components of the prior."""
    if vae.model.of_z.y:
        return vae.classes, "clusters"
    return vae.model.prior.components, "components"


def begin_prior(vae: Any, data: Any) -> None:
    """Let a second prior begin where the codes of a trained pair lie: a draw of q(z|x) for each of the data.

    `GaussianMixture` becomes the mixture that EM finds among them, `VampPrior` takes data as pseudo-inputs, the others
    take their mean and deviation. Nothing else of the pair changes; it is in evaluation mode then.

    Args:
        vae: the pair, with the prior that is to be trained.
        data: the training data.

    Raises:
        InputError: for a prior in which nothing is learned, or for fewer data than it has parts.
    """
    prior = vae.model.prior
    check_learned(prior)
    vae.eval()
    data = as_data(vae.model, data)
    if prior.examples:
        prior.initialise(*fields_of(data[evenly(prior.examples, len(data))]))
    _, z = _codes_of_some(vae, data)
    if not hasattr(prior, "follow"):
        prior.meet(z)
        return
    if prior.components > len(z):
        raise InputError(
            f"{prior.components} components cannot be sought among the codes of {len(z)} data: take fewer"
        )
    found = _mixture(z, prior.components)
    prior.follow(found.weights, found.loc, found.scale)


def check_learned(prior: Any) -> None:
    """Raise `InputError` for a prior that cannot be trained alone by gradients."""
    name = type(prior).__name__
    if isinstance(prior, Codes):
        raise InputError(
            f"{name} is fitted to the codes when any training ends, and gradients move nothing in it: it is no second "
            "prior"
        )
    if not any(p.requires_grad for p in prior.parameters()):
        raise InputError(
            f"nothing is learned in the prior {name}, so there is nothing to train: take another, such as Flow"
        )


def _codes_of_some(vae: Any, data: Any) -> tuple[Any, Tensor]:
    """Some data, and a code of each: of several layers that of the top, which stands first."""
    some = data[evenly(SAMPLE, len(data))]
    some = Data(some) if isinstance(some, dict) else some
    with running(vae.model, vae.guide), clean(), torch.no_grad():
        codes = [vae.encode(few).sample() for few in batches(some, BATCH)]
    return some, torch.cat(codes)[:, : vae.model.prior.latent_dim]


def seek(vae: Any, data: Any) -> None:
    """Let the parts of p(z) begin as the clusters that there are among the codes of a pair.

    A mixture of K Gaussians with diagonal covariances is fitted by EM to a draw of q(z|x) for each datum. A prior that
    is a mixture becomes it. Where classes are the parts, `p(z|y)`, and `p(y)` where it is learned, follow its
    components, and `q(y|x)` their responsibilities.

    Args:
        vae: a pair with classes whose prior depends on them, or whose prior has `components`.
        data: the training data.

    Raises:
        InputError: for fewer data than parts.

    Source: Jiang, Zheng, Tan, Tang & Zhou 2017, Variational Deep Embedding (autoencoder first, then a mixture).
    """
    some, z = _codes_of_some(vae, as_data(vae.model, data))
    with running(vae.model, vae.guide), clean():
        size, what = parts_of_prior(vae)
        if size > len(z):
            raise InputError(
                f"{size} {what} cannot be sought among the codes of {len(z)} data: take fewer, or start=0"
            )
        found = _mixture(z, size)
        if not vae.model.of_z.y:
            vae.model.prior.follow(found.weights, found.loc, found.scale)
            return
        _follow(vae, some, z, found.shares)
    if vae.model.class_prior.logits.requires_grad:
        with torch.no_grad():
            vae.model.class_prior.logits.copy_(found.weights.log())


def _mixture(z: Tensor, size: int) -> Mixture:
    """The mixture of Gaussians that EM finds among codes, the best of some starts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    seed = int(torch.randint(2**31, ()))
    found = GaussianMixture(
        size, covariance_type="diag", n_init=TRIES, reg_covar=1e-3, random_state=seed
    )
    codes = z.detach().cpu().double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(codes)
    arrays = (
        found.predict_proba(codes),
        found.weights_,
        found.means_,
        found.covariances_**0.5,
    )
    return Mixture(*(torch.from_numpy(array).to(z) for array in arrays))


def _follow(vae: Any, data: Any, z: Tensor, shares: Tensor) -> None:
    """Fit p(z|y) to codes and q(y|x) to the shares of each class in them, `(N, K)`, by gradient steps."""
    prior, classifier = vae.model.prior, vae.guide.classifier
    groups = [
        {"params": list(part.parameters()), "lr": RATES[name]}
        for name, part in (("prior", prior), ("classifier", classifier))
    ]
    optimizer = torch.optim.Adam(groups)
    x, c = fields_of(data)
    y = torch.arange(vae.classes, device=z.device).unsqueeze(-1)
    for _ in range(FITTING):
        rows = torch.randint(len(z), (min(BATCH, len(z)),))
        values = vae.model.known({} if c is None else {"c": c[rows]}) | {"y": y}
        given = (values[name] for name in vae.model.of_z.names)
        log_p = vae.model._prior_given(*given).log_prob(z[rows])  # (K, rows)
        known = {"x": x[rows]} | ({} if c is None else {"c": c[rows]})
        log_q = vae.guide.factors()[0].at(vae.guide.known(known)).logits
        gained = (shares[rows] * (log_p.T + log_q)).sum(-1).mean()
        optimizer.zero_grad()
        (-gained).backward()
        optimizer.step()
    optimizer.zero_grad()
