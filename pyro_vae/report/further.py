"""Whatever else an evaluation holds: numbers in any nesting, and figures, without knowing what they are."""

from collections.abc import Mapping
from typing import Any

from pyro_vae.report.facts import Facts
from pyro_vae.report.page import Html, figure, join, number, paragraph, picture, short, table

PLUS_MINUS = "±\N{NO-BREAK SPACE}"

SUMMARY = {  # the keys of evaluation.json that have a place of their own
    "run",
    "epoch",
    "dataset",
    "fingerprint",
    "split",
    "data",
    "data_in_split",
    "representation",
    "bridge",
    "num_particles",
    "least_particles",
    "log_marginal",
    "curve",
    "elbo",
    "reconstruction",
    "kl",
    "bits_per_dimension",
    "bits_per_dimension_of",
    "ess",
    "pareto_k",
    "verdict",
    "latents",
    "spec",
    "refinement_steps",
    "effort",
    "seed",
    "plan",
    "figures",
    "checkpoint",
    "command",
    "versions",
    "gaps",
    "ais",
    "bdmc",
    "posterior",
    "roads",
}

CAPTIONS = {  # the pictures that the programs make, by the names of their files
    "prior": "What the model makes of latents drawn from the prior.",
    "prior_samples": "What the model makes of latents drawn from the prior: the mean of p(x|z).",
    "reconstructions": "Data, and below each what the model makes of a draw from its posterior.",
    "interpolation": "Data at both ends of a row; between them, what lies on the line between their latents.",
    "traversal": "One latent at a time, from −3 to 3, the others held.",
    "manifold": "What the model makes of each point of the plane of its two latents.",
    "aggregated_posterior": "The posteriors of all data together (blue) and the prior (black), latent by latent. Where "
    "they differ, draws from the prior are unlike what the decoder has learned from.",
    "posterior": "The latents of one datum: draws of the posterior by NUTS (blue) and of the guide (orange).",
    "posterior_means": "Posterior means of training data, coloured by label where there are labels.",
    "latents": "Posterior means in two dimensions, coloured by label where there are labels.",
}
REDRAWN = {"learning_curves", "bound_curve"}  # figures that the page draws itself
ACRONYMS = {
    name.lower(): name
    for name in ("AIS", "AUROC", "BDMC", "ELBO", "ESS", "FPR", "KL", "NUTS", "OOD")
}


def shown(facts: Facts, *names: str) -> Html:
    """The pictures of these names that there are, each with a caption."""
    found = []
    for name in names:
        path = facts.pictures.get(name)
        caption = CAPTIONS.get(name) or name.replace("_", " ").replace("-", " ").capitalize() + "."
        image = None if path is None else picture(path, caption)
        found.append(image and figure(image, caption=caption, class_="picture"))
    return join(found)


def estimate(mean: Any, *errors: Any) -> str:
    """A mean with its standard errors."""
    return f" {PLUS_MINUS}".join(number(v, *errors) for v in (mean, *errors))


def further(facts: Facts) -> dict[str, tuple[str, Html]]:
    """A section for each key of the evaluation that has no other, and one for figures that no section shows."""
    used = set(CAPTIONS) | REDRAWN
    found = {}
    for key in facts.s:
        if key not in SUMMARY and facts.s[key] is not None:
            figures = [
                name
                for name in facts.pictures
                if name not in used and name.split("_")[0].split("-")[0] == key
            ]
            used |= set(figures)
            found[f"more-{key}"] = (
                _words(key),
                join([_anything(key, facts.s[key]), shown(facts, *figures)]),
            )
    rest = [name for name in facts.pictures if name not in used]
    if rest:
        found["figures"] = ("Further figures", shown(facts, *rest))
    return found


def _words(key: str) -> str:
    """The name of a key as a heading."""
    words = " ".join(
        ACRONYMS.get(word, word) for word in str(key).replace("_", " ").replace("-", " ").split()
    )
    return words[:1].upper() + words[1:]


def _anything(title: str, value: Any) -> Html:
    """Numbers in any nesting as tables: a mean with its errors in one row, dicts of one kind as columns."""
    if not isinstance(value, Mapping):
        return paragraph(short(value))
    sentences = [v for k, v in value.items() if isinstance(v, str) and " " in v]
    plain: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for key, v in value.items():
        if not (isinstance(v, str) and v in sentences):
            (nested if isinstance(v, Mapping) else plain)[key] = v
    parts = [paragraph(sentence) for sentence in sentences]
    if plain:
        rows = [[_words(key), text] for key, text in _rows(plain).items()]
        parts.append(table(["", ""], rows, caption=_words(title)))
    heads = {
        tuple(v) for v in nested.values() if not any(isinstance(u, Mapping) for u in v.values())
    }
    if len(nested) > 1 and len(heads) == 1 and all(tuple(v) in heads for v in nested.values()):
        head = [_words(key) for key in _rows(next(iter(nested.values())))]
        rows = [[_words(key), *_rows(v).values()] for key, v in nested.items()]
        parts.append(table(["", *head], rows, caption=_words(title)))
    else:
        parts += [_anything(f"{title}: {_words(key)}", v) for key, v in nested.items()]
    return join(parts)


def _rows(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as text, the errors of a mean beside it in place of rows of their own."""
    errors = [key for key in values if key.endswith("standard_error")]
    rows = {}
    for key, v in values.items():
        if key in errors:
            continue
        own = [e for e in errors if e == f"{key}_standard_error" or key in ("mean", "value")]
        known = [values[e] for e in own if isinstance(values[e], int | float)]
        rows[key] = estimate(v, *known) if known and isinstance(v, int | float) else short(v)
    return rows
