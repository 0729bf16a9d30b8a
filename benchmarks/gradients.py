"""Bias and variance of the gradients for categorical latents, against the exact one: `python -m benchmarks.gradients`.

Four variables of five values, 625 codes, after ten epochs on the digits: so few that the gradient is known; drawn all
the same. REBAR, which no objective is, stands beside them with the coefficient that is best for it. Prints a table in
Markdown.
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vae import ELBO, IWAE, SVI, VAE, Objective, Spec, build
from pyro_vae.data import load_data
from pyro_vae.inference.fit import run_epochs
from pyro_vae.inference.objectives import VIMCO, GumbelSoftmax

LEVELS, VARIABLES, EPOCHS, BATCH = 5, 4, 10, 100


class Plain(ELBO):
    """The ELBO with the score function as it stands, without a baseline."""

    by_particle = False


class PlainIWAE(IWAE):
    """`L_K` with the score function as it stands."""

    by_particle = False


def constant(temperature: float) -> GumbelSoftmax:
    return GumbelSoftmax(start=temperature, end=temperature)


OF_ELBO: dict[str, Objective] = {
    "score function, no baseline, K = 1": Plain(),
    "score function, no baseline, K = 5": Plain(num_particles=5),
    "`ELBO()`: the other data as baseline": ELBO(),
    "`ELBO(num_particles=2)`: leave-one-out": ELBO(num_particles=2),
    "`ELBO(num_particles=3)`: leave-one-out": ELBO(num_particles=3),
    "`ELBO(num_particles=5)`: leave-one-out": ELBO(num_particles=5),
    "`ELBO(num_particles=20)`: leave-one-out": ELBO(num_particles=20),
    "`GumbelSoftmax`, temperature 1": constant(1.0),
    "`GumbelSoftmax`, temperature 0.5": constant(0.5),
    "`GumbelSoftmax`, temperature 0.1": constant(0.1),
}
OF_IWAE: dict[str, Objective] = {
    "score function, no baseline, K = 5": PlainIWAE(num_particles=5),
    "`VIMCO(num_particles=5)`, `IWAE(num_particles=5)`": VIMCO(num_particles=5),
}


def pair(*, enumerate: bool) -> VAE:
    guide = f"categorical(levels={LEVELS}, enumerate={enumerate})"
    prior = f"categorical(levels={LEVELS})"
    return build(Spec((8, 8), LEVELS * VARIABLES, prior, guide=guide))


def gradient(vae: VAE, x: Tensor, objective: Objective) -> Tensor:
    """Of the guide, in nats per datum."""
    t = objective.terms_of(vae.model, vae.guide, x)
    loss = objective.loss_of(t) / len(x)
    found = torch.autograd.grad(loss, list(vae.guide.parameters()))
    return torch.cat([g.flatten() for g in found])


def row(vae: VAE, x: Tensor, objective: Objective, truth: Tensor, draws: int) -> str:
    """The summed variance of a gradient, and the length of its bias over that of the truth, as far as noise allows."""
    mean, squares = torch.zeros_like(truth), 0.0
    for _ in range(draws):
        g = gradient(vae, x, objective)
        mean += g / draws
        squares += g.square().sum().item() / draws
    variance = (squares - mean.square().sum().item()) * draws / (draws - 1)
    return told(mean, variance, truth, draws)


def told(mean: Tensor, variance: float, truth: Tensor, draws: int) -> str:
    """The cells of a gradient, from the mean and the variance of so many."""
    length = truth.norm().item()
    apart = ((mean - truth).square().sum().item() - variance / draws) / length**2
    noise = (variance / draws) ** 0.5 / length
    return f"{variance:.2g} | {max(apart, 0.0) ** 0.5:.2f} (± {noise:.2f})"


def rebar(vae: VAE, x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The score-function gradient of the ELBO at one draw, and what REBAR takes off it, whose mean is 0.

    The draw is the largest of Gumbel variables; its control is the same at codes relaxed from these variables, and from
    others that are drawn given the code.

    Source: Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein 2017, REBAR: Low-variance, Unbiased Gradient Estimates for
    Discrete Latent Variable Models, appendix C.
    """
    guide = vae.guide
    log_q = guide.parameters_given(x).unflatten(-1, (VARIABLES, LEVELS)).log_softmax(-1)
    prior: Any = vae.model.prior
    log_prior = prior.logits.detach().view(-1, LEVELS).log_softmax(-1)

    # A draw, and Gumbel variables that have it for their largest.
    z = log_q - torch.rand_like(log_q).log().neg().log()
    c = z.argmax(-1)
    code = one_hot(c, LEVELS).to(x)
    e = torch.rand_like(log_q).log().neg()
    largest = e.gather(-1, c.unsqueeze(-1))
    again = torch.where(code > 0, largest, e / log_q.exp() + largest).log().neg()

    def value(s: Tensor) -> Tensor:
        """The ELBO of each datum at codes, relaxed or not."""
        pays = (s * (log_prior - log_q.detach())).sum((-1, -2))
        return vae.decode(s.flatten(-2)).log_prob(x) + pays  # type: ignore[no-any-return]

    def of_guide(total: Tensor) -> Tensor:
        found = torch.autograd.grad(
            -total.mean(), [*guide.parameters()], retain_graph=True
        )
        return torch.cat([g.flatten() for g in found])

    relaxed, given = (value((v / temperature).softmax(-1)) for v in (z, again))
    score = (code * log_q).sum((-1, -2))
    control = of_guide(relaxed - given - given.detach() * score)
    return of_guide(value(code).detach() * score), control


def row_of_rebar(
    vae: VAE, x: Tensor, temperature: float, truth: Tensor, draws: int
) -> str:
    """As `row`, of REBAR's gradient with the best coefficient for its control."""
    found = [rebar(vae, x, temperature) for _ in range(draws)]
    plain, control = (torch.stack(parts) for parts in zip(*found, strict=True))
    best = (plain * (control - control.mean(0))).sum() / control.var(0).sum()
    gradients = plain - best / (draws - 1) * control
    variance = gradients.var(0).sum().item()
    return told(gradients.mean(0), variance, truth, draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--draws", type=int, default=300, help="gradients of each (default: 300)"
    )
    draws = parser.parse_args().draws
    torch.manual_seed(0)
    exact, digits = pair(enumerate=True), load_data("digits")
    bridge = digits.bridge(
        exact.model.likelihood, binarize="dynamic", dequantize=False, scale=False
    )
    train = digits.split("train", bridge, dtype=torch.float32).first(10**6)
    exact.initialise(*train.moments())
    svi = SVI(
        exact.model,
        exact.guide,
        lambda p: torch.optim.Adam(p, lr=1e-3),
        ELBO(),
        reduction="mean",
    )
    for _ in run_epochs(svi, train, epochs=EPOCHS, compile=False):
        pass
    drawn = pair(enumerate=False)
    drawn.load_state_dict(exact.state_dict())
    exact, drawn, x = (
        exact.double(),
        drawn.double(),
        train[torch.arange(BATCH)].double(),
    )

    truth = gradient(exact, x, ELBO())
    print(f"The exact gradient of the ELBO has length {truth.norm():.2g}.\n")
    print("| gradient of the ELBO | variance | bias / length |\n|---|---|---|")
    print("| `ELBO()`, enumerated: exact | 0 | 0 |")
    for name, objective in OF_ELBO.items():
        print(f"| {name} | {row(drawn, x, objective, truth, draws)} |", flush=True)
    for temperature in (0.1, 0.5, 1.0):
        cells = row_of_rebar(drawn, x, temperature, truth, draws)
        print(f"| REBAR, temperature {temperature:g} | {cells} |", flush=True)
    vimco = OF_IWAE["`VIMCO(num_particles=5)`, `IWAE(num_particles=5)`"]
    many = sum(gradient(drawn, x, vimco) for _ in range(10 * draws)) / (10 * draws)
    assert isinstance(many, Tensor)
    print("\n| gradient of the IWAE-5 bound | variance |\n|---|---|")
    for name, objective in OF_IWAE.items():
        variance = row(drawn, x, objective, many, draws).partition(" |")[0]
        print(f"| {name} | {variance} |", flush=True)


if __name__ == "__main__":
    main()
