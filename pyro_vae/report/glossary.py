"""The terms of a report, each in a sentence or two, with the paper that it comes from."""

from typing import NamedTuple

from pyro_vae.foundation.html import Html, tag


class Term(NamedTuple):
    """A term, what it means, and where to read on: `{words: address}`."""

    name: str
    meaning: str
    sources: dict[str, str]


TERMS = {
    "nat": Term(
        "nat",
        "The unit of logarithms to base e: a log-probability of −1 nat is a probability of 1/e, about 37 %. "
        "One nat is 1.44 bits.",
        {},
    ),
    "latent": Term(
        "latent variable, z",
        "Numbers that the model invents for each datum and from which it makes the datum. Before a datum is seen they "
        "follow the prior p(z), after it the posterior p(z|x).",
        {"Kingma & Welling 2013": "https://arxiv.org/abs/1312.6114"},
    ),
    "guide": Term(
        "guide, q(z|x)",
        "The encoder: a distribution with a known density that stands in for the posterior, which has none.",
        {"Kingma & Welling 2013": "https://arxiv.org/abs/1312.6114"},
    ),
    "log-p": Term(
        "log p(x)",
        "How probable the model finds a datum, with its latents summed out; higher is better. It is estimated from K "
        "draws of the guide, each weighted by p(x, z) / q(z|x). On average the estimate is too low, never too high.",
        {"Burda, Grosse & Salakhutdinov 2015": "https://arxiv.org/abs/1509.00519"},
    ),
    "errors": Term(
        "± data, ± Monte Carlo",
        "Two standard errors. The first says how far another sample of test data would move a mean, the second how "
        "far other random draws would. Only the second falls with more draws.",
        {},
    ),
    "elbo": Term(
        "ELBO",
        "The evidence lower bound, reconstruction − KL: what training maximises. It lies below log p(x) by as much as "
        "the guide differs from the posterior.",
        {"Kingma & Welling 2013": "https://arxiv.org/abs/1312.6114"},
    ),
    "bits": Term(
        "bits per dimension",
        "−log2 p(x), divided by how many numbers a datum has; lower is better. Only numbers of the same data in the "
        "same representation can be compared.",
        {"Theis, van den Oord & Bethge 2015": "https://arxiv.org/abs/1511.01844"},
    ),
    "ess": Term(
        "effective sample size, ESS",
        "How many equally weighted draws the K weighted ones are worth, between 1 and K.",
        {"Elvira, Martino & Robert 2018": "https://arxiv.org/abs/1809.04129"},
    ),
    "pareto": Term(
        "Pareto k",
        "How heavy the tail of the weights of one datum is. Above 0.7 a few draws carry the weight, and neither the "
        "estimate nor its Monte-Carlo error can be believed for that datum.",
        {"Vehtari et al. 2015": "https://arxiv.org/abs/1507.02646"},
    ),
    "active": Term(
        "active unit",
        "A latent whose posterior mean varies over the data (by a variance of more than 0.01). The others carry next "
        "to nothing. If none is active the latents have collapsed, and the decoder works without them.",
        {"Burda, Grosse & Salakhutdinov 2015": "https://arxiv.org/abs/1509.00519"},
    ),
    "information": Term(
        "mutual information, I(x; z)",
        "What the latents tell about a datum. With KL(q(z) || p(z)), the distance of all posteriors taken together "
        "from the prior, it makes up the KL of the ELBO.",
        {
            "Hoffman & Johnson 2016": "http://approximateinference.org/accepted/HoffmanJohnson2016.pdf"
        },
    ),
}


def term(key: str, words: str) -> Html:
    """Words that lead to their explanation at the end of the page."""
    return tag("a", words, href=f"#term-{key}", class_="term")


def glossary() -> Html:
    """All terms as a list."""
    entries = []
    for key, (name, meaning, sources) in TERMS.items():
        links = [
            tag("a", words, href=address, rel="noreferrer")
            for words, address in sources.items()
        ]
        entries.append(tag("dt", name, id=f"term-{key}"))
        entries.append(tag("dd", meaning, *([" ", *links] if links else [])))
    return tag("dl", *entries)
