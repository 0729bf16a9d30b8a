"""The parts of a report, in the order in which a reader asks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyro_vae._config import Config, key
from pyro_vae.data.representation import Representation
from pyro_vae.evaluation.results import (
    MEANINGS,
    PARETO_LIMIT,
    PARTS,
    PARTS_OF_CODES,
)
from pyro_vae.foundation.commands import command
from pyro_vae.foundation.commands import trust as trust_option
from pyro_vae.foundation.html import Html, join, tag
from pyro_vae.foundation.trust import AXES
from pyro_vae.plots.tiles import is_image, own_scale, shaded
from pyro_vae.report.answers import BY_KIND, PLUS_MINUS, shown, tabulated
from pyro_vae.report.facts import Facts, Warned
from pyro_vae.report.glossary import term
from pyro_vae.report.page import (
    bullets,
    code,
    figure,
    named,
    number,
    paragraph,
    picture,
    rough,
    short,
    table,
)
from pyro_vae.runs import on_run

WORST = 12  # data that are shown
DOUBTFUL = 10
K_ERROR = 0.1  # of Pareto k, about


def _particles(s: Mapping[str, Any]) -> str:
    least, most = s["least_particles"], s["num_particles"]
    return short(most) if least == most else f"{short(least)} to {short(most)}"


def hero(facts: Facts, warnings: Sequence[Warned]) -> Html:
    """The verdict: the number, what it is of, and whether it can be believed."""
    s, marginal, latents = facts.s, facts.s["log_marginal"], facts.s.get("latents")
    bad, dims = s["pareto_k"]["above_limit"], s["spec"]["latent_dim"]
    error = marginal["data_standard_error"]
    noise = marginal["monte_carlo_standard_error"]
    mean = number(marginal["mean"], error)
    data_error = f"{PLUS_MINUS}{number(error, error)}"
    taken = f" for {len(facts.history)} epochs" if facts.history else ""
    believed = s["verdict"]
    if bad:
        believed = f"For {bad} of these data the number is doubtful."
    prior, likelihood, guide = (
        code(facts.config.get(axis, "?")) for axis in ("prior", "likelihood", "guide")
    )
    lead = paragraph(
        "A ",
        term("latent", "variational autoencoder"),
        f" with {dims} latents (prior ",
        prior,
        ", likelihood ",
        likelihood,
        ", guide ",
        guide,
        ") was trained on ",
        tag("strong", s["dataset"]),
        f"{taken} and judged on {short(s['data'])} {s['split']} data, with the weights of "
        f"epoch {s['epoch']}. It gives them a mean ",
        term("log-p", _named(s)),
        " of ",
        tag("strong", f"{mean} nats per datum"),
        f", {data_error} by the choice of the data and "
        f"{PLUS_MINUS}{number(noise, noise)} by the random draws. ",
        _given(s),
        believed,
        " ",
        latents["verdict"] if latents else "",
        class_="lead",
    )
    bits, share = (
        number(s["bits_per_dimension"], 0.001),
        f"{100 * bad / s['data']:.1f} %",
    )
    doubtful = f"{bad} of {short(s['data'])} data"
    cards = [
        _card(_named(s), mean, f"nats per datum, {data_error}"),
        _card("bits per dimension", bits, f"of {s['bits_per_dimension_of']}"),
        _card(f"Pareto k above {PARETO_LIMIT}", share, doubtful, bad > 0),
    ]
    if latents and "active_interval" in latents:
        low, high = latents["active_interval"]
        note = f"of {dims}; 95 %: {low} to {high}"
        active = short(latents["active_units"])
        cards.append(_card("active latents", active, note, latents["collapsed"]))
    heading, kind = "No warnings", "box good"
    content = paragraph("No check found a reason to doubt the number.")
    if warnings:
        heading = "One warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
        content, kind = bullets(map(_warning, warnings)), "box bad"
    box = tag("aside", tag("h2", heading), content, class_=kind, aria_label="Warnings")
    return join([tag("div", *cards, class_="cards"), lead, box])


def _warning(warned: Warned) -> Html:
    """What was found, and below it what helps."""
    helps = None if warned.remedy is None else tag("pre", code(warned.remedy))
    return join([warned.sentence, helps])


def _named(s: Mapping[str, Any]) -> str:
    """What the number is: log p(x), or its lower bound under a codebook."""
    return "log p(x, code)" if s.get("two_part") else "log p(x)"


def _given(s: Mapping[str, Any]) -> str:
    """What the density is given, where it is given anything."""
    given = s.get("given") or []
    return f"It is log p(x|c), c: {', '.join(map(str, given))}. " if given else ""


def _card(name: str, value: str, note: str, bad: bool = False) -> Html:
    spans = (
        tag("span", text, class_=kind)
        for text, kind in ((name, "name"), (value, "value"), (note, "note"))
    )
    return tag("div", *spans, class_="card bad" if bad else "card")


def the_number(facts: Facts) -> Html:
    """The log-likelihood and its parts, each with its errors and a sentence."""
    s = facts.s
    called = _named(s)
    rows = {called: s["log_marginal"]}
    parts = PARTS_OF_CODES if s.get("coded") else PARTS
    rows |= {name: s[key] for key, name in parts.items() if name != called}
    caption = (
        f"{called}, from {_particles(s)} draws for each datum, and what it is made of"
    )
    if s.get("two_part"):
        caption = f"{called}, which bounds log p(x) from below, and what it is made of"
    seen = Representation[s["representation"]].value
    return join(
        [
            tabulated(rows, {"meanings": MEANINGS, "unit": "nats per datum"}, caption),
            paragraph(
                f"{called} is {number(s['bits_per_dimension'], 0.001)} ",
                term("bits", "bits per dimension"),
                f" of {s['bits_per_dimension_of']}; there lower is better.",
            ),
            paragraph(
                "The two kinds of ",
                term("errors", "±"),
                f" are standard errors. The data are seen as {seen}: "
                f"{s['bridge']}. {_given(s)}Compare only with numbers of the same data seen in the same way.",
            ),
        ]
    )


def trust(facts: Facts) -> Html:
    """Whether the estimate can be believed: ESS, Pareto k, the curve over K, the doubtful data."""
    s, k = facts.s, facts.columns["pareto_k"]
    ess, pareto, bias = s["ess"], s["pareto_k"], s["log_marginal"]["estimated_bias"]
    of_draws = named(term("ess", "effective sample size"), f"of {_particles(s)} draws")
    above = f"above {PARETO_LIMIT} for {pareto['above_limit']} of {s['data']} data"
    of_bias = "nats; how far the mean probably lies below the truth"
    rows = [
        [of_draws, rough(ess["median"]), rough(ess["least"])],
        [
            named(term("pareto", "Pareto k"), above),
            number(pareto["median"], K_ERROR),
            number(pareto["largest"], K_ERROR),
        ],
        [named("estimated bias", of_bias), number(bias, bias and abs(bias)), ""],
    ]
    introduction = "The number is a mean over weighted draws. It can be believed where many draws share the weight."
    content = [
        paragraph(introduction),
        table(
            ["", "median", "worst"], rows, caption="Quality of the importance weights"
        ),
    ]
    captions = s.get("captions") or {}
    pictures = {
        name: captions[name] for name in ("pareto_k", "bound_curve") if name in captions
    }
    content.append(tag("div", shown(facts, pictures), class_="pair"))
    if s.get("effort"):
        content.append(paragraph(s["effort"]))
    elif s.get("refinement_steps"):
        steps = s["refinement_steps"]
        sentence = (
            f"Before weighting, q(z|x) was fitted to each datum by {steps} steps."
        )
        content.append(paragraph(sentence))
    doubtful = np.flatnonzero(~(k <= PARETO_LIMIT))
    if len(doubtful):
        worst_first = np.argsort(-np.nan_to_num(k[doubtful], nan=np.inf), kind="stable")
        order = doubtful[worst_first][:DOUBTFUL]
        more = ""
        if len(order) < len(doubtful):
            more = f", the {len(order)} worst of {len(doubtful)}"
        caption = f"Data with Pareto k above {PARETO_LIMIT}{more}, counted from 0"
        content.append(_data_table(facts, order, caption))
    return join(content)


def _called(facts: Facts, i: int) -> dict[str, str]:
    """Which datum it is: its row in the file, its name and label; its place in the evaluation where that is all."""
    keys = [key for key in ("row", "name", "label") if key in facts.columns]
    return {key: str(facts.columns[key][i]) for key in keys} or {"datum": str(i)}


def _data_table(facts: Facts, order: np.ndarray, caption: str) -> Html:
    columns, rows = facts.columns, []
    names = ["row of the file" if key == "row" else key for key in _called(facts, 0)]
    for i in order.tolist():
        value, error = float(columns["values"][i]), float(columns["standard_errors"][i])
        rows.append(
            [
                *_called(facts, i).values(),
                number(value, error),
                number(error, error),
                number(columns["pareto_k"][i], K_ERROR),
                rough(float(columns["ess"][i])),
                short(int(columns["num_particles"][i])),
            ]
        )
    head = [*names, "log p(x)", "± Monte Carlo", "Pareto k", "ESS", "draws"]
    return table(head, rows, caption=caption, text=len(names))


def training(facts: Facts) -> Html:
    """Learning curves, and what training took."""
    history = facts.history
    if not history:
        return paragraph(
            "The run folder has no metrics.csv with the course of the training.",
            class_="missing",
        )
    last = history[-1]
    ends = f"{number(last['elbo'])} on training data and {number(last['validation_elbo'])} on validation data"
    caption = f"ELBO by epoch, at the end {ends}; and its two parts. A KL near 0 would say that the latents go unused."
    seconds = math.fsum(row["seconds"] for row in history)
    best = facts.s["epoch"]
    rows = [
        ["epochs", f"{len(history)} of {facts.config.get('epochs', '?')}"],
        ["evaluated weights", f"of epoch {best} ({facts.s.get('checkpoint', 'best')})"],
        ["time", f"{seconds:,.0f} s, {seconds / len(history):.2g} s for an epoch"],
        ["learning rate at the end", short(last["learning_rate"])],
        ["objective", facts.config.get("objective", "?")],
    ]
    return join(
        [
            shown(facts, {"learning_curves": caption}),
            table(["", ""], rows, caption="The training", text=2),
        ]
    )


def samples(facts: Facts) -> Html:
    """What the model draws."""
    prior = "prior" if "prior" in facts.pictures else "prior_samples"
    other = "prior_samples" if prior == "prior" else "prior"
    captions = BY_KIND[facts.drawn_as]
    pictures = shown(facts, {k: text for k, text in captions.items() if k != other})
    if facts.is_table or "traversal" in facts.pictures:
        return pictures
    wanted = code(on_run("sample", facts.folder, place=facts.place))
    missing = paragraph(
        tag("strong", "Interpolation and traversal: not computed."),
        " Draw them with ",
        wanted,
        " and write the report again.",
        class_="missing",
    )
    return join([pictures, missing])


def worst(facts: Facts) -> Html:
    """The data that the model finds least probable."""
    values = facts.columns["values"]
    order = np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")[:WORST]
    captions = facts.s.get("captions") or {}
    content = [shown(facts, {"log_marginal": captions.get("log_marginal", "log p(x)")})]
    if facts.data is not None and is_image(facts.data[:1].shape[1:]):
        content.append(_thumbnails(facts, order))
    caption = f"The {len(order)} data with the lowest log p(x); rows are counted from 0"
    return join([*content, _data_table(facts, order, caption)])


def _thumbnails(facts: Facts, order: np.ndarray) -> Html:
    places = order.tolist()
    data = [facts.data[i : i + 1][0].detach().cpu().float().numpy() for i in places]
    chosen = torch.from_numpy(np.stack(data))
    chosen = chosen.reshape(len(places), -1, *chosen.shape[-2:])
    shades = (shaded(chosen, *own_scale(chosen)) * 255).round().astype(np.uint8)
    shown = []
    for i, x in zip(places, shades, strict=True):
        pixels = x if x.shape[-1] == 3 else x[..., 0]
        value = number(facts.columns["values"][i], 0.1)
        words = [v if k == "name" else f"{k} {v}" for k, v in _called(facts, i).items()]
        called = ", ".join(words)
        alt = f"{called}, log p(x) {value}"
        image = picture(Image.fromarray(pixels), alt, "pixels")
        shown.append(figure(image, caption=f"{called}: {value}"))
    return tag("div", *shown, class_="thumbnails")


def configuration(facts: Facts) -> Html:
    """Every setting, the versions, and how to repeat it."""
    defaults = {key(f.name): f.default for f in fields(Config)}
    rows = []
    for name, value in facts.config.items():
        if name != "resolved":
            usual, text = defaults.get(name), short(value)
            changed = value != usual
            shown_value = tag("strong", text) if changed else text
            rows.append([code(name), shown_value, short(usual)])
    s, came = (
        facts.s,
        {key.replace("_", " "): short(v) for key, v in facts.resolved.items()},
    )
    came.pop("version", None)
    came["version that trained"] = facts.resolved.get("version", "?")
    for name, version in (s.get("versions") or {}).items():
        came[f"{name} that evaluated"] = version
    came["checkpoint"] = s.get("checkpoint", "?")
    came["seed of the evaluation"] = str(s.get("seed", "?"))
    file, trusted = f"{facts.place}/config.toml", trust_option(facts.config, AXES)
    repeat = command("train", "--config", file, "--output", "NEW_FOLDER", *trusted)
    return join(
        [
            paragraph("To evaluate again:"),
            tag("pre", code(facts.command)),
            paragraph("To train again:"),
            tag("pre", code(repeat)),
            table(
                ["setting", "value", "default"],
                rows,
                caption="Settings of the training; bold: not the default",
                text=3,
            ),
            table(["", ""], came.items(), caption="What they came to", text=2),
        ]
    )


Section = Callable[[Facts], Html]

SECTIONS: dict[str, tuple[str, Section]] = {
    "number": ("The number", the_number),
    "trust": ("Can it be trusted?", trust),
    "training": ("Training", training),
    "samples": ("Samples and reconstructions", samples),
    "worst": ("The least probable data", worst),
    "configuration": ("Configuration", configuration),
}
