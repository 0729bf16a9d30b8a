"""The two-part code of a codebook against sums over all codes, and what stands in no number."""

import math

import pytest
import torch

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    InputError,
    Spec,
    build,
    elbo,
    guides,
    latent_health,
    log_marginal,
    priors,
    refine,
)
from pyro_vae.distributions.words import every_code, spelled
from pyro_vae.evaluation.codes import code_use
from pyro_vae.inference.coding import codes_of, fit_codes
from pyro_vae.spec import problem

DATA = 5


def data(n):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, DATA, generator=generator).double().round()


def small(*, size=3, groups=2, fitted=True, **options):
    torch.manual_seed(0)
    vae = VAE(
        priors.Codes(2 * groups),
        MLP((2 * groups,), (1, DATA), hidden=(6,)),
        Bernoulli((DATA,)),
        guides.Codebook(
            MLP((DATA,), hidden=(6,)), 2 * groups, size=size, groups=groups, **options
        ),
    ).double()
    x = data(300)
    vae.initialise(x.mean(0), x.std(0), examples=x)
    torch.nn.init.normal_(vae.model.decoder.output_layer.weight)
    if fitted:
        fit_codes(vae, x)
    return vae.eval()


def joint(vae, x):
    """`log p(x, c)` of all codes, `(L^G, n)`, and `log p(c)`: decoded one by one, without a program."""
    guide, prior = vae.guide, vae.model.prior
    codes = every_code(guide.groups, guide.size)
    log_p = []
    for code in codes:
        z = spelled(code[None], guide.words).flatten(1)
        p = torch.distributions.Bernoulli(logits=vae.model.decoder(z).flatten(1))
        log_c = -guide.groups * math.log(guide.size)
        if prior.fitted:
            hidden, log_c = torch.zeros(prior.bias.shape[1]).double(), 0.0
            for g, c in enumerate(code):
                act = (prior.bias[g] + hidden).tanh()
                logits = prior.offset[g] + act @ prior.out[g]
                log_c = log_c + logits.log_softmax(0)[c]
                hidden = hidden + prior.weight[g, c]
        log_p.append(p.log_prob(x).sum(-1) + log_c)
    return torch.stack(log_p).detach(), codes


@pytest.mark.parametrize(("size", "groups"), [(3, 2), (8, 1), (2, 5)])
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_log_p_of_few_codes_is_the_sum_over_all_and_the_code_is_one_of_them(
    size, groups, fitted, shared
):
    vae, x = small(size=size, groups=groups, fitted=fitted, shared=shared), data(7)
    log_joint, codes = joint(vae, x)
    exact = log_joint.logsumexp(0)
    found = log_marginal(vae.model, vae.guide, x, num_particles=9)
    torch.testing.assert_close(found.values, exact, rtol=0, atol=1e-10)
    assert not found.standard_errors.any()
    assert (found.coded, found.two_part, found.exact) == (True, False, True)

    # The ELBO is that of the code which the guide takes: by hand the row of the table.
    taken = codes_of(vae, x)
    rows = [(codes == code).all(-1).nonzero().item() for code in taken]
    two_part = -log_joint[rows, torch.arange(7)]
    torch.testing.assert_close(found.elbo, -two_part, rtol=0, atol=1e-10)
    assert (two_part >= -exact).all()
    assert (two_part > -exact + 1e-3).any()
    assert elbo(vae.model, vae.guide, x).elbo == pytest.approx(-two_part.mean().item())
    text = str(found)
    assert "log p(x), exactly" in text
    assert "log p(x, code)" in text


def test_of_many_codes_the_bound_is_named_as_one():
    vae, x = small(size=4, groups=5), data(7)
    assert not vae.guide.few  # 1,024 codes
    found = log_marginal(vae.model, vae.guide, x, num_particles=50)
    log_joint, codes = joint(vae, x)
    rows = [(codes == code).all(-1).nonzero().item() for code in codes_of(vae, x)]
    two_part = -log_joint[rows, torch.arange(7)]
    torch.testing.assert_close(found.values, -two_part, rtol=0, atol=1e-10)
    assert (two_part >= -log_joint.logsumexp(0)).all()
    assert found.num_particles == 1  # others would only repeat it
    assert (found.coded, found.two_part, found.exact) == (True, True, False)
    assert found.name == "log p(x, code)"
    assert "upper bound on -log p(x)" in found.verdict()
    assert (found + found).two_part
    assert not any(line.startswith("log p(x) ") for line in str(found).splitlines())


def test_no_draw_is_between_words_whatever_the_mode():
    vae, x = small(fitted=False), data(30)
    words = vae.guide.words
    for training in (True, False):
        vae.train(training)
        z = vae.guide(x).unflatten(-1, (2, -1))
        apart = (z.unsqueeze(-2) - vae.guide.words).abs().sum(-1).amin(-1)
        assert training or apart.max() == 0
        p = vae.encode(x)
        assert (p.rsample() == p.sample()).all()
    assert words.shape == (2, 3, 2)


def test_how_the_words_are_used():
    vae, x = small(), data(40)
    use = code_use(vae, x)
    taken = codes_of(vae, x)
    assert use.counts.tolist() == [
        [int((taken[:, g] == level).sum()) for level in range(3)] for g in range(2)
    ]
    log_joint, codes = joint(vae, x[:1])
    log_x = log_joint[:, 0]  # less log p(x|c), which the prior's own values give
    z = spelled(codes, vae.guide.words).flatten(1)
    log_c = vae.model.prior().log_prob(z)
    rows = [(codes == code).all(-1).nonzero().item() for code in taken]
    assert use.length.mean == pytest.approx(-log_c[rows].mean().item())
    p = torch.distributions.Bernoulli(logits=vae.model.decoder(z).flatten(1))
    torch.testing.assert_close(p.log_prob(x[:1]).sum(-1) + log_c, log_x)
    assert "equally used words of 3" in str(use)


def test_what_codes_of_a_codebook_refuse():
    vae, x = small(), data(5)
    with pytest.raises(InputError, match="nothing to refine"):
        refine(vae, x)
    with pytest.raises(InputError, match="told by code_use"):
        latent_health(vae.model, vae.guide, x)
    with pytest.raises(InputError, match="has none"):
        code_use(build(Spec((4,), 2)), x)
    spec = Spec((DATA,), 2, guide="codebook(size=4)")
    for name in ("iwae", "dreg", "reweightedwakesleep", "vimco", "gumbelsoftmax"):
        assert problem(spec, name) is not None
    assert "take ELBO" in problem(spec, "iwae")
