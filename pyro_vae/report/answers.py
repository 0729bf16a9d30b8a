"""The answers of an evaluation as its file has them: tables, sentences, warnings and figures, whatever was asked."""

from collections.abc import Callable, Mapping
from typing import Any

from pyro_vae.evaluation.question import tables
from pyro_vae.foundation.html import Html, join, tag
from pyro_vae.foundation.source import summaries
from pyro_vae.report.facts import Facts
from pyro_vae.report.glossary import term
from pyro_vae.report.page import (
    bullets,
    code,
    figure,
    named,
    number,
    paragraph,
    picture,
    short,
    table,
)

PLUS_MINUS = "±\N{NO-BREAK SPACE}"
OF_THE_NUMBER = {  # the mappings of evaluation.json that are no answer
    *("log_marginal", "curve", "elbo", "reconstruction", "kl", "ess", "pareto_k"),
    *("spec", "plan", "versions", "roads", "captions"),
}
TEXTS = ("heads", "meanings", "figures")  # the mappings of an answer that are no row
CAPTIONS = {  # the pictures of training, sampling and encoding, by the names of their files
    "prior": "What the model makes of latents drawn from the prior.",
    "prior_samples": "What the model makes of latents drawn from the prior: the mean of p(x|z).",
    "reconstructions": "Data, and below each what the model makes of a draw from its posterior.",
    "interpolation": "Data at both ends of a row; between them, what lies on the line between their latents.",
    "traversal": "One latent at a time, from −3 to 3, the others held.",
    "layers": "Data, and what is left of each where fewer layers of latents are kept and the others drawn again.",
    "manifold": "What the model makes of each point of the plane of its two latents.",
    "posterior_means": "Posterior means of training data, coloured by label where there are labels.",
    "latents": "Posterior means in two dimensions, coloured by label where there are labels.",
}
OF_SERIES = {  # the same of data that are drawn as lines
    **CAPTIONS,
    "prior": "Data, and draws from p(x); the band holds 90 % of all of them.",
    "prior_samples": "Data, and draws from p(x); the band holds 90 % of all of them.",
    "reconstructions": "Data as dots, and what the model makes of them from their posteriors as lines.",
    "interpolation": "From one datum to another, dark to light: what lies on the line between their latents.",
    "traversal": "One latent at a time, from −3 (dark) to 3 (light), the others held.",
}
OF_TABLES = {  # the same of a table that is drawn column by column
    "prior": "Each column of the data, and of draws from p(x).",
    "prior_samples": "Each column of the data, and of draws from p(x).",
    "prior_pairs": "Columns of the data, those that hang together most, over columns of draws from p(x).",
    "reconstructions": "Each cell of the data, and what it is made again as from a draw of its row's posterior.",
    "interpolation": "Data at both ends of each block; between them, what lies on the line between their latents.",
    **{
        name: CAPTIONS[name]
        for name in ("traversal", "layers", "manifold", "posterior_means", "latents")
    },
}
BY_KIND = {"image": CAPTIONS, "series": OF_SERIES, "table": OF_TABLES}
TERMS = {
    "log p(x)": "log-p",
    "ELBO": "elbo",
    "KL": "information",
    "I(x; z)": "information",
}
PLACED = {
    *CAPTIONS,
    *OF_TABLES,
    "learning_curves",
    "bound_curve",
    "pareto_k",
    "log_marginal",
}
ACRONYMS = {
    name.lower(): name
    for name in ("AIS", "AUROC", "BDMC", "ELBO", "ESS", "FPR", "KL", "NUTS", "OOD")
}


def shown(facts: Facts, captions: Mapping[str, str]) -> Html:
    """The pictures of these names that there are, each with its caption."""
    figures = []
    for name, caption in captions.items():
        path = facts.pictures.get(name)
        image = None if path is None else picture(path, caption)
        kind = "picture" if name in facts.of_pixels else "picture chart"
        figures.append(image and figure(image, caption=caption, class_=kind))
    return join(figures)


def answers(facts: Facts) -> dict[str, tuple[str, Html]]:
    """A section for each answer, and one for figures that nothing else shows."""
    mappings = {key: v for key, v in facts.s.items() if isinstance(v, Mapping)}
    shown_elsewhere = set(PLACED)
    sections = {}
    for key, answer in mappings.items():
        if key in OF_THE_NUMBER and "title" not in answer:
            continue
        captions = _captions(key, answer, set(facts.pictures) - shown_elsewhere)
        shown_elsewhere |= set(captions)
        content = join([_answer(answer), shown(facts, captions)])
        sections[f"answer-{key}"] = (str(answer.get("title") or _words(key)), content)
    rest = {
        name: f"{_words(name)}."
        for name in facts.pictures
        if name not in shown_elsewhere
    }
    if rest:
        sections["figures"] = ("Further figures", shown(facts, rest))
    return sections


def _captions(
    key: str, answer: Mapping[str, Any], pictures: set[str]
) -> dict[str, str]:
    """The figures of an answer: those that it names, and those that are named after it."""
    named_after = sorted(n for n in pictures if n.split("_")[0].split("-")[0] == key)
    captions = {name: f"{_words(name)}." for name in named_after}
    for part in (answer, *_parts(answer).values()):
        named_by = part.get("figures")
        captions |= dict(named_by) if isinstance(named_by, Mapping) else {}
    return captions


def _parts(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {k: v for k, v in answer.items() if isinstance(v, Mapping) and "title" in v}


def _answer(answer: Mapping[str, Any], within: str = "") -> Html:
    """One answer: its rows as tables, its sentences and warnings, and its parts; `within` is the name of a part.

    A mapping of other origin is shown whole, its plain values too.
    """
    titled, parts = "title" in answer, _parts(answer)
    spelled = str if titled else _words
    rows = {
        spelled(key): _plain(v)
        for key, v in answer.items()
        if isinstance(v, Mapping) and key not in (*TEXTS, *parts)
    }
    caption = str(answer.get("about") or within or "The answer in numbers")
    content: list[Any] = [paragraph(tag("strong", within))] if within else []
    content.append(tabulated(rows, answer, caption, spelled))
    if not rows and titled:
        content.append(paragraph(answer.get("about")))
    if not titled and (plain := {k: v for k, v in answer.items() if _is_plain(v)}):
        settings = [[_words(k), short(v)] for k, v in plain.items()]
        content.append(table(["", ""], settings, caption=caption))
    content += [paragraph(sentence) for sentence in _sentences(answer)]
    if warnings := answer.get("warnings"):
        content.append(bullets(warnings))
    if question := answer.get("question"):
        content.append(paragraph("Asked: ", code(question)))
    return join([*content, *(_answer(part, str(name)) for name, part in parts.items())])


def tabulated(
    rows: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, Any],
    caption: str,
    spelled: Callable[[str], str] = str,
) -> Html:
    """Rows as tables: a mean beside its errors, with as many decimals as these allow.

    Args:
        rows: the cells of each row by their columns.
        texts: `heads`, `meanings` and `unit` of an answer, as far as it has them.
        caption: of the tables.
        spelled: what becomes of the names of rows and columns.
    """
    elements, meanings = [], texts.get("meanings") or {}
    for head, lines in tables(rows, texts.get("heads") or {}):
        cells = []
        # what is said of each row alike is said once
        said = [meanings.get(name, "") for name, *_ in lines]
        alike = len(lines) > 1 and said[0] != "" and len(set(said)) == 1
        for (name, *values), meaning in zip(lines, said, strict=True):
            linked = term(TERMS[name], name) if name in TERMS else name
            called = named(linked, "" if alike else meaning)
            cells.append([called, *_numbers(head, values)])
        first = texts.get("unit", "") if "mean" in head else ""
        above = f"{caption}: {said[0]}" if alike else caption
        elements.append(
            table([first, *map(spelled, head.values())], cells, caption=above)
        )
    return join(elements)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row; what is nested deeper in one of them, as text."""
    return {k: short(v) if isinstance(v, Mapping | list) else v for k, v in row.items()}


def _numbers(head: Mapping[str, str], values: list[Any]) -> list[str]:
    """A row as text: a mean with as many decimals as its errors allow."""
    if "mean" in head:
        return ["" if v is None else number(v, *values[1:]) for v in values]
    return [v if isinstance(v, str) else short(v) for v in values]


def _sentences(answer: Mapping[str, Any]) -> list[str]:
    """What an answer says; of an earlier version every text that is a sentence."""
    if "title" in answer:
        return list(answer.get("sentences") or [])
    return [v for v in answer.values() if isinstance(v, str) and " " in v]


def _is_plain(value: Any) -> bool:
    """Whether a value goes into one cell and is no sentence."""
    return not isinstance(value, Mapping) and not (
        isinstance(value, str) and " " in value
    )


def not_asked(facts: Facts) -> Html:
    """The questions that this evaluation was not asked, and how to ask them."""
    rows = []
    for call, summary in summaries("ask").items():
        name = call.partition("(")[0]
        if not facts.s.get(name):
            rows.append([code(f"--ask {name}"), summary.replace("`", "")])
    questions = table(["", ""], rows, caption="Questions that were not asked", text=2)
    introduction = paragraph("Not computed; add one of these to the evaluation.")
    return join([introduction, questions])


def _words(key: str) -> str:
    """The name of a key as a heading."""
    if not key.replace("_", "").replace("-", "").replace(" ", "").isalnum():
        return key
    split = key.replace("_", " ").replace("-", " ").split()
    words = " ".join(ACRONYMS.get(word, word) for word in split)
    return words[:1].upper() + words[1:]
