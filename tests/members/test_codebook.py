"""A codebook against formulas by hand: words that follow, gradients, k-means, and the prior over codes."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from pyro_vae import (
    ELBO,
    MLP,
    SVI,
    VAE,
    Bernoulli,
    InputError,
    Spec,
    build,
    fit,
    guides,
    priors,
)
from pyro_vae.distributions.words import Chain, Word, Words, every_code, nearest
from pyro_vae.inference.coding import ADDED, chain_of, codes_of, fit_codes
from pyro_vae.models.conditionals.codebook import centres, perplexity

DATA = 6  # elements of a datum


def data(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, DATA, generator=generator).double().round()


def small(*, size=4, groups=2, latent_dim=4, **options):
    """A pair with a codebook, started from data."""
    torch.manual_seed(0)
    vae = VAE(
        priors.Codes(latent_dim),
        MLP((latent_dim,), (1, DATA), hidden=(5,)),
        Bernoulli((DATA,)),
        guides.Codebook(
            MLP((DATA,), hidden=(7,)), latent_dim, size=size, groups=groups, **options
        ),
    ).double()
    x = data(60)
    vae.initialise(x.mean(0), x.std(0), examples=x)
    return vae


def by_hand(vae, x):
    """Encodings `(n, G, D)`, codes and words, each distance taken by itself."""
    guide = vae.guide
    h = guide.head(guide.encoder(x)).unflatten(-1, (guide.groups, -1))
    codes = torch.zeros(len(x), guide.groups, dtype=torch.long)
    for n, g in itertools.product(range(len(x)), range(guide.groups)):
        book = guide.words[g % len(guide.words)]
        codes[n, g] = (h[n, g] - book).square().sum(-1).argmin()
    books = guide.words.expand(guide.groups, -1, -1)
    words = torch.stack([books[g, codes[:, g]] for g in range(guide.groups)], 1)
    return h, codes, words


def a_step(vae, x):
    """The loss of the objective ELBO, a sum over the data, and its gradients by parameter."""
    vae.train()
    svi = SVI(vae.model, vae.guide, lambda p: torch.optim.SGD(p, lr=0.1), ELBO())
    loss, _ = svi.differentiate(x)
    return loss, {name: p.grad for name, p in vae.named_parameters()}


@pytest.mark.parametrize("commitment", [0.0, 0.25, 3.0])
def test_the_loss_and_its_gradients_are_those_of_the_paper(commitment):
    """`-log p(x|z) + G log L + commitment |h - sg[e]|^2`, the gradient of the first term at z copied to h."""
    vae, x = small(commitment=commitment), data(9, seed=2)
    guide, decoder = vae.guide, vae.model.decoder
    h, codes, words = by_hand(vae, x)
    z = words.flatten(1).clone().requires_grad_()
    reconstruction = -Bernoulli((DATA,))(decoder(z)).log_prob(x).sum()
    held = commitment * (h - words).square().sum()
    uniform = len(x) * guide.groups * math.log(guide.size)

    # The gradient at z goes to the encodings as it is; the decoder's own is that of the reconstruction.
    (at_z,) = torch.autograd.grad(reconstruction, z, retain_graph=True)
    passed = (h.flatten(1) * at_z).sum() + held
    of_guide = list(guide.named_parameters())
    of_decoder = list(decoder.named_parameters())
    expected = {
        f"guide.{name}": g
        for (name, _), g in zip(
            of_guide, torch.autograd.grad(passed, [p for _, p in of_guide]), strict=True
        )
    } | {
        f"model.decoder.{name}": g
        for (name, _), g in zip(
            of_decoder,
            torch.autograd.grad(reconstruction, [p for _, p in of_decoder]),
            strict=True,
        )
    }
    loss, found = a_step(vae, x)
    torch.testing.assert_close(loss, (reconstruction + held + uniform).detach())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    assert len(codes.unique()) > 1


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("how", ["eager", "graph"])
def test_words_follow_by_moving_averages(shared, how, monkeypatch):
    """Three steps beside `N <- 0.9 N + 0.1 n`, `m <- 0.9 m + 0.1 sum h`, `e = m / N`, word by word."""
    from pyro_vae.engine import compiled

    monkeypatch.setattr(compiled, "compile_graph", lambda graph: graph.module)
    vae = small(decay=0.9, shared=shared, revive=0)
    guide, x = vae.guide, data(30, seed=3)
    n, m = guide.counts.clone(), guide.sums.clone()
    svi = SVI(
        vae.model,
        vae.guide,
        lambda p: torch.optim.SGD(p, lr=0.01),
        ELBO(),
        compile=how == "graph",
    )
    vae.train()
    taken = torch.zeros_like(n)
    for rows in torch.arange(30).split(10):
        h, codes, _ = by_hand(vae, x[rows])
        svi.step(x[rows])
        for book, word in itertools.product(range(len(n)), range(guide.size)):
            slots = range(guide.groups) if shared else [book]
            mine = [h[codes[:, g] == word, g] for g in slots]
            here = torch.cat(mine).detach()
            n[book, word] = 0.9 * n[book, word] + 0.1 * len(here)
            m[book, word] = 0.9 * m[book, word] + 0.1 * here.sum(0)
            taken[book, word] += len(here)
        torch.testing.assert_close(guide.counts, n)
        torch.testing.assert_close(guide.sums, m)
        torch.testing.assert_close(guide.words, m / n.unsqueeze(-1))
    assert svi.compiled == (how == "graph")
    assert torch.equal(guide.used.double(), taken)
    shares = taken / taken.sum(-1, keepdim=True)
    truth = [math.exp(-sum(p * math.log(p) for p in row if p)) for row in shares]
    found, unused = guide.counted()
    assert found == pytest.approx(np.mean(truth))
    assert unused == (taken == 0).sum()
    assert not guide.used.any()


def test_only_steps_move_the_words():
    vae, x = small(), data(12)
    before = copy.deepcopy(vae.state_dict())
    SVI(vae.model, vae.guide, torch.optim.SGD, ELBO()).check(x)
    with torch.no_grad():
        vae.guide(x)
    vae.encode(x)
    vae.eval()
    vae.guide(x)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_words_start_where_k_means_of_scikit_learn_ends():
    vae = small(size=5)
    x = data(60)
    # The first number that the start drew was its seed: the same draws again.
    torch.manual_seed(7)
    seeds = [int(torch.randint(2**31, ())) for _ in range(2)]
    torch.manual_seed(7)
    vae.guide.start(x)
    h = vae.guide.encoder(x)
    h = vae.guide.head(h).unflatten(-1, (2, -1)).detach()
    for g, seed in enumerate(seeds):
        truth = KMeans(5, n_init=1, random_state=seed).fit(h[:, g].numpy())
        distances = (h[:, g, None] - vae.guide.words[g]).square().sum(-1)
        assert distances.min(-1).values.sum().item() == pytest.approx(truth.inertia_)


def test_fewer_encodings_than_words():
    """All points are centres, and the words that are left lie beside them, no two the same."""
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]]).double()
    words = centres(points, 6)
    assert words.shape == (6, 2)
    assert len(words.unique(dim=0)) == 6
    for point in points:
        assert (words - point).norm(dim=-1).min() < 1e-12
    assert torch.cdist(words, points).min(-1).values.max() < 0.05


def test_unused_words_start_again_at_encodings_of_the_batch():
    """After exactly as many steps, at one of its encodings (up to a hundredth of its length), and the others stay."""
    vae = small(size=4, groups=1, revive=3)
    guide, x = vae.guide, data(20)
    far = torch.full((4,), 50.0).double()
    guide.words[0, 2] = guide.sums[0, 2] = far
    vae.train()
    for step in range(3):
        torch.testing.assert_close(guide.words[0, 2], far)
        h, _, _ = by_hand(vae, x)
        svi = SVI(vae.model, guide, lambda p: torch.optim.SGD(p, lr=1e-9), ELBO())
        svi.step(x)
        assert (guide.idle[0, 2] == 0) == (step == 2)
    ratio = guide.words[0, 2] / h[:, 0]
    near = (ratio - ratio.mean(-1, keepdim=True)).abs().amax(-1) < 1e-9
    assert near.any()
    assert (ratio[near] >= 1).all()
    assert (ratio[near] <= 1.01).all()
    assert guide.counts[0, 2] == 1
    never = small(size=4, groups=1, revive=0)
    never.guide.words[0, 2] = never.guide.sums[0, 2] = far
    a_step(never, x)
    torch.testing.assert_close(never.guide.words[0, 2], far)


def test_perplexity_of_known_histograms():
    counts = torch.tensor([[5, 5, 5, 5], [9, 0, 0, 0], [2, 1, 1, 0]]).double()
    truth = torch.tensor([4.0, 1.0, 2**1.5]).double()
    torch.testing.assert_close(perplexity(counts), truth)


# --- distributions


def test_the_nearest_word_is_at_the_least_distance():
    torch.manual_seed(0)
    z, book = torch.randn(7, 3, 2), torch.randn(3, 5, 2)
    distances = (z.unsqueeze(-2) - book).square().sum(-1)
    assert torch.equal(nearest(z, book), distances.argmin(-1))
    one = book[:1]
    assert torch.equal(
        nearest(z, one), (z.unsqueeze(-2) - one).square().sum(-1).argmin(-1)
    )
    close = torch.tensor([[[1000.0], [1000.0001]]])  # told apart, though so near
    assert nearest(close.transpose(1, 2).mT, close).flatten().tolist() == [0, 1]


def test_a_word_is_a_point_with_the_gradient_of_its_encoding():
    torch.manual_seed(0)
    h = torch.randn(4, 2, 3).double().requires_grad_()
    q = Word(h, torch.randn(2, 5, 3).double())
    z = q.expand((6, 4)).rsample()
    assert (z.shape, q.log_prob(z).shape) == ((6, 4, 6), (6, 4))
    assert (q.log_prob(z) == 0).all()
    weights = torch.randn(6).double()
    (z[0] * weights).sum().backward()
    assert torch.equal(h.grad.flatten(1), weights.expand(4, 6))
    assert q.support.check(z).all()
    assert not q.support.check(z + 1e-3).any()
    assert (q.log_prob(z + 1e-3) == -math.inf).all()
    assert len(q.enumerate_support()) == 25
    assert q.log_prob(q.enumerate_support()).exp().sum(0).tolist() == [1] * 4


def chain(slots=3, levels=4, hidden=5):
    torch.manual_seed(0)
    shapes = (slots, levels, hidden), (slots, hidden), (slots, hidden, levels)
    parts = [torch.randn(*shape).double() for shape in (*shapes, (slots, levels))]
    return Chain(*parts)


def test_a_chain_adds_up_to_one_and_is_the_product_of_its_conditionals():
    p, codes = chain(), every_code(3, 4)
    log_p = p.log_prob(codes)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)
    # p(c_1) p(c_2 | c_1) p(c_3 | c_1, c_2) from sums over the table.
    table = log_p.exp().reshape(4, 4, 4)
    first, second = table.sum((1, 2)), table.sum(2)
    c = torch.tensor([[2, 1, 3]])
    each = p.logits(c).log_softmax(-1)[0]
    truths = first[2], second[2, 1] / first[2], table[2, 1, 3] / second[2, 1]
    for slot, truth in enumerate(truths):
        found = each[slot, c[0, slot]].exp().item()
        assert found == pytest.approx(truth.item())


def test_draws_of_a_chain_have_its_probabilities():
    p, n = chain(slots=2, levels=3), 40_000
    drawn = p.sample(torch.Size([n])) @ torch.tensor([3, 1])
    shares = drawn.bincount(minlength=9).double() / n
    truth = p.log_prob(every_code(2, 3)).exp()
    assert ((shares - truth).abs() < 4.5 * (truth * (1 - truth) / n).sqrt()).all()


@pytest.mark.parametrize("shared", [False, True])
def test_words_have_the_probabilities_of_their_codes(shared):
    p = chain()
    book = torch.randn(1 if shared else 3, 4, 2).double()
    words = Words(book, 3, p)
    z = words.enumerate_support()
    torch.testing.assert_close(words.log_prob(z), p.log_prob(every_code(3, 4)))
    assert words.log_prob(words.sample((7,))).exp().sum() > 0
    equal = Words(book, 3).log_prob(z).exp()
    assert equal.sum().item() == pytest.approx(1)
    q = Word(z.unflatten(-1, (3, -1)), book)
    kl = torch.distributions.kl_divergence(q, words)
    torch.testing.assert_close(kl, -words.log_prob(z))


# --- the prior over codes


def test_the_chain_recovers_a_known_joint_distribution():
    """Of three codes that depend on each other: KL(truth || fitted), of which independent slots have 0.5 nats."""
    torch.manual_seed(0)
    truth = (2.0 * torch.randn(3, 3, 3)).flatten().softmax(0)
    codes = every_code(3, 3)[torch.multinomial(truth, 20_000, replacement=True)]
    fitted, _ = chain_of(codes, 3, 32)
    log_p = fitted.log_prob(every_code(3, 3))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)
    kl = (truth * (truth.log() - log_p)).sum()
    alone, _ = chain_of(codes, 3, 0)
    apart = (truth * (truth.log() - alone.log_prob(every_code(3, 3)))).sum()
    assert apart > 0.3
    assert kl < 0.01


def test_a_single_group_has_the_frequencies_of_its_codes():
    """Smoothed by the number under which each code is likeliest by the others, found here datum by datum."""
    codes = [0] * 5 + [2] * 3 + [3]
    fitted, length = chain_of(torch.tensor(codes).unsqueeze(-1), 5, 0)

    def left_out(a):
        counts = [(codes.count(c) - 1 + a) / (len(codes) - 1 + 5 * a) for c in codes]
        return sum(map(math.log, counts)) / len(codes)

    best = max(ADDED, key=left_out)
    assert ADDED[0] < best < ADDED[-1]
    assert length == pytest.approx(-left_out(best))
    truth = [(codes.count(c) + best) / (9 + 5 * best) for c in range(5)]
    levels = torch.arange(5).unsqueeze(-1)
    found = fitted.log_prob(levels).exp()
    assert found.tolist() == pytest.approx(truth, rel=1e-5)


def test_codes_that_are_equally_likely_take_no_more_than_that():
    """Of 512 codes and 1,000 data frequencies alone would be far too sure of what they have seen."""
    torch.manual_seed(0)
    codes = torch.randint(512, (1000, 1))
    fitted, length = chain_of(codes, 512, 0)
    new = torch.randint(512, (1000, 1))
    found = -fitted.log_prob(new).mean().item()
    assert length == pytest.approx(math.log(512), abs=0.01)
    assert found == pytest.approx(math.log(512), abs=0.01)


def test_the_prior_is_uniform_until_it_is_fitted_and_in_training():
    vae, x = small(), data(200)
    vae.eval()
    uniform = 2 * math.log(4)
    z = vae.encode(x).mean
    assert (vae.model.prior().log_prob(z) == -uniform).all()
    random = torch.get_rng_state()
    length = fit_codes(vae, x)
    assert torch.equal(random, torch.get_rng_state())
    assert (length.uniform, length.num_data) == (uniform, 200)
    fitted = vae.model.prior().log_prob(z)
    assert -fitted.mean() < uniform - 0.1
    assert vae.model.prior().log_prob(vae.model.prior().enumerate_support()).exp().sum(
        0
    ).item() == pytest.approx(1)
    other = small()
    other.load_state_dict(vae.state_dict())
    other.eval()
    torch.testing.assert_close(other.model.prior().log_prob(z), fitted)
    vae.train()
    assert (vae.model.prior().log_prob(z) == -uniform).all()
    assert codes_of(vae, x).shape == (200, 2)


def test_fitting_a_pair_fits_its_prior_too():
    torch.manual_seed(0)
    vae = build(Spec((DATA,), 4, guide="codebook(size=4, groups=2)"))
    history = fit(vae, data(300).float(), epochs=3)
    assert vae.model.prior.fitted
    assert not vae.model.prior.training
    assert 1 <= history[-1].perplexity <= 4
    assert history[-1].unused in range(9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: guides.Codebook(MLP((4,)), 7, groups=2), "multiple of 2"),
        (lambda: guides.Codebook(MLP((4,)), 4, size=1), "size=1"),
        (lambda: guides.Codebook(MLP((4,)), 4, decay=1.5), "decay=1.5"),
        (lambda: guides.Codebook(MLP((4,)), 4, commitment=-1), "commitment=-1"),
        (priors.Codes(2), "put it into a VAE"),
        (lambda: build(Spec((4,), 2, prior="codes")), "take the guide codebook"),
        (
            lambda: build(Spec((4,), 2, "standardnormal", guide="codebook")),
            "take the prior codes",
        ),
        (
            lambda: build(
                Spec((4,), 2, guide="codebook", structure="labelled", context=10)
            ),
            "structure without y",
        ),
        (
            lambda: guides.SemiAmortized(MLP((4,)), 2, guide=guides.Codebook),
            "draws of Codebook are codes",
        ),
        (lambda: codes_of(build(Spec((4,), 2)), data(3)), "MeanField has none"),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_an_interrupt_leaves_no_prior_of_other_codes():
    vae, x = small(), data(60)
    fit(vae, x, epochs=1)
    assert vae.model.prior.fitted

    def stop(epoch):
        raise KeyboardInterrupt

    for keep in ("last", "best"):
        with pytest.raises(KeyboardInterrupt, match="equally likely until fit_codes"):
            fit(vae, x, epochs=3, report=stop, keep=keep)
        assert not vae.model.prior.fitted
        every = vae.eval().model.prior().log_prob(vae.encode(x).sample())
        assert torch.allclose(every, torch.tensor(-2 * math.log(4)).double())
    fit_codes(vae, x)
    assert vae.model.prior.fitted
