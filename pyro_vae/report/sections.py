"""The parts of a report, in the order in which a reader asks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from PIL import Image

from pyro_vae._config import Config
from pyro_vae._grid import is_image
from pyro_vae.data.representation import Representation
from pyro_vae.evaluation.latents import ACTIVE
from pyro_vae.evaluation.results import PARETO_LIMIT
from pyro_vae.foundation.commands import command
from pyro_vae.foundation.commands import trust as trust_option
from pyro_vae.foundation.trust import AXES
from pyro_vae.report import charts
from pyro_vae.report.facts import Facts
from pyro_vae.report.further import PLUS_MINUS, estimate, shown
from pyro_vae.report.glossary import term
from pyro_vae.report.page import (
    Html,
    code,
    figure,
    join,
    number,
    paragraph,
    picture,
    short,
    table,
    tag,
)
from pyro_vae.runs import on_run

WORST = 12  # data that are shown
DOUBTFUL = 10


def _missing(what: str, *how: Any) -> Html:
    return paragraph(tag("strong", f"{what}: not computed."), " ", *how, class_="missing")


def _add(option: str) -> Html:
    return Html(f"Add {code(option)} to the evaluation.")


def _named(name: Any, meaning: str) -> Html:
    """The first cell of a row, with what it means beneath."""
    return join([tag("span", name), tag("small", meaning)])


def _particles(s: Mapping[str, Any]) -> str:
    least, most = s["least_particles"], s["num_particles"]
    return short(most) if least == most else f"{short(least)} to {short(most)}"


def hero(facts: Facts, warnings: Sequence[str]) -> Html:
    """The verdict: the number, what it is of, and whether it can be believed."""
    s, marginal, latents = facts.s, facts.s["log_marginal"], facts.s.get("latents")
    bad, dims = s["pareto_k"]["above_limit"], s["spec"]["latent_dim"]
    error, noise = marginal["data_standard_error"], marginal["monte_carlo_standard_error"]
    mean, data_error = number(marginal["mean"], error), f"{PLUS_MINUS}{number(error, error)}"
    taken = f" for {len(facts.history)} epochs" if facts.history else ""
    believed = f"For {bad} of these data the number is doubtful." if bad else s["verdict"]
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
        term("log-p", "log p(x)"),
        " of ",
        tag("strong", f"{mean} nats per datum"),
        f", {data_error} by the choice of the data and "
        f"{PLUS_MINUS}{number(noise, noise)} by the random draws. ",
        believed,
        " ",
        latents["verdict"] if latents else "",
        class_="lead",
    )
    share = bad / s["data"]
    cards = [
        _card("log p(x)", mean, f"nats per datum, {data_error}"),
        _card(
            "bits per dimension",
            number(s["bits_per_dimension"], 0.001),
            f"of {s['bits_per_dimension_of']}",
        ),
        _card(
            f"Pareto k above {PARETO_LIMIT}",
            f"{100 * share:.1f} %",
            f"{bad} of {short(s['data'])} data",
            bad > 0,
        ),
    ]
    if latents:
        low, high = latents["active_interval"]
        told = f"of {dims}; 95 %: {low} to {high}"
        cards.append(
            _card("active latents", short(latents["active_units"]), told, latents["collapsed"])
        )
    if warnings:
        heading = "One warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
        items = tag("ul", *(tag("li", w) for w in warnings))
        box = tag("aside", tag("h2", heading), items, class_="box bad", aria_label="Warnings")
    else:
        box = tag(
            "aside",
            tag("h2", "No warnings"),
            paragraph("No check found a reason to doubt the number."),
            class_="box good",
            aria_label="Warnings",
        )
    return join([tag("div", *cards, class_="cards"), lead, box])


def _card(name: str, value: str, note: str, bad: bool = False) -> Html:
    parts = (
        tag("span", text, class_=kind)
        for text, kind in ((name, "name"), (value, "value"), (note, "note"))
    )
    return tag("div", *parts, class_="card bad" if bad else "card")


def the_number(facts: Facts) -> Html:
    """The log-likelihood and its parts, each with its errors and a sentence."""
    s, rows = facts.s, []
    bits = f"of {s['bits_per_dimension_of']}; log p(x) in bits, for each number of a datum. Lower is better."
    explained = (
        (
            f"log p(x), K = {_particles(s)}",
            "log-p",
            "log_marginal",
            "The score: how probable the model finds unseen data. Higher is better.",
        ),
        ("ELBO", "elbo", "elbo", "The bound that training maximises; it lies below log p(x)."),
        (
            "reconstruction",
            "guide",
            "reconstruction",
            "The first part of the ELBO: how well a datum is made again from its own latents.",
        ),
        (
            "KL",
            "information",
            "kl",
            "The second part, subtracted: how many nats the latents tell beyond the prior.",
        ),
    )
    kinds = ("data_standard_error", "monte_carlo_standard_error")
    errors = [s["log_marginal"][kind] for kind in kinds]
    for name, link, column, meaning in explained:
        part = s[column]
        cells = [number(part[key], *errors) if key in part else "" for key in ("mean", *kinds)]
        rows.append([_named(term(link, name), meaning), *cells])
    rows.append(
        [
            _named(term("bits", "bits per dimension"), bits),
            number(s["bits_per_dimension"], 0.001),
            "",
            "",
        ]
    )
    seen = Representation[s["representation"]].value
    return join(
        [
            table(
                ["nats per datum", "mean", "± data", "± Monte Carlo"],
                rows,
                caption="log p(x) and what it is made of",
            ),
            paragraph(
                "The two kinds of ",
                term("errors", "±"),
                f" are standard errors. The data are seen as {seen}: "
                f"{s['bridge']}. Compare only with numbers of the same data seen in the same way.",
            ),
        ]
    )


def trust(facts: Facts) -> Html:
    """Whether the estimate can be believed: ESS, Pareto k, the curve over K, the doubtful data."""
    s, k = facts.s, facts.columns["pareto_k"]
    bad, n, bias = s["pareto_k"]["above_limit"], s["data"], s["log_marginal"]["estimated_bias"]
    rows = [
        [
            _named(term("ess", "effective sample size"), f"of {_particles(s)} draws"),
            *(short(s["ess"][name]) for name in ("median", "least")),
        ],
        [
            _named(term("pareto", "Pareto k"), f"above {PARETO_LIMIT} for {bad} of {n} data"),
            *(short(s["pareto_k"][name]) for name in ("median", "largest")),
        ],
        [
            _named("estimated bias", "nats; how far the mean probably lies below the truth"),
            number(bias, bias and abs(bias)),
            "",
        ],
    ]
    told = "The number is a mean over weighted draws. It can be believed where many draws share the weight."
    parts = [
        paragraph(told),
        table(["", "median", "worst"], rows, caption="Quality of the importance weights"),
    ]
    pictures = []
    if np.isfinite(k).any():
        told = f"Pareto k of {n} data: {n - bad} at most {PARETO_LIMIT}, {bad} above or unknown."
        drawn = charts.histogram(k, label="Pareto k", alt=f"Histogram. {told}", limit=PARETO_LIMIT)
        pictures.append(
            figure(drawn, caption=f"{told} Beyond the dashed line the weights cannot be trusted.")
        )
    curve = {int(key): v for key, v in s.get("curve", {}).items() if v is not None}
    if len(curve) > 1:
        points = "; ".join(f"{short(key)}: {number(v)}" for key, v in curve.items())
        drawn = charts.lines(
            {"a": (list(curve), list(curve.values()))},
            labels=("draws K", "nats per datum"),
            log=True,
            dots=True,
            alt=f"The bound over the number of draws. {points}.",
        )
        caption = (
            f"The bound at fewer draws ({points}). "
            "A curve that still rises at its end says that log p(x) is higher."
        )
        pictures.append(figure(drawn, caption=caption))
    parts.append(tag("div", *pictures, class_="pair"))
    if s.get("effort"):
        parts.append(paragraph(s["effort"]))
    elif s.get("refinement_steps"):
        parts.append(
            paragraph(
                f"Before weighting, q(z|x) was fitted to each datum by {s['refinement_steps']} steps."
            )
        )
    doubtful = np.flatnonzero(~(k <= PARETO_LIMIT))
    if len(doubtful):
        order = doubtful[np.argsort(-np.nan_to_num(k[doubtful], nan=np.inf), kind="stable")][
            :DOUBTFUL
        ]
        more = "" if len(order) == len(doubtful) else f", the {len(order)} worst of {len(doubtful)}"
        parts.append(
            _data_table(
                facts, order, f"Data with Pareto k above {PARETO_LIMIT}{more}, counted from 0"
            )
        )
    return join(parts)


def _called_by(facts: Facts) -> list[str]:
    """The heads of the columns that say which datum it is."""
    heads = {"row": "row of the file", "name": "name", "label": "label"}
    return [head for key, head in heads.items() if key in facts.columns] or ["datum"]


def _called(facts: Facts, i: int) -> dict[str, str]:
    """Which datum it is: its row in the file, its name and label; its place in the evaluation where that is all."""
    keys = ("row", "name", "label")
    return {k: str(facts.columns[k][i]) for k in keys if k in facts.columns} or {"datum": str(i)}


def _data_table(facts: Facts, order: np.ndarray, caption: str) -> Html:
    columns, rows = facts.columns, []
    for i in order.tolist():
        value, error = float(columns["values"][i]), float(columns["standard_errors"][i])
        rows.append(
            [
                *_called(facts, i).values(),
                number(value, error),
                number(error, error),
                number(columns["pareto_k"][i], 0.1),
                short(float(columns["ess"][i])),
                short(int(columns["num_particles"][i])),
            ]
        )
    names = _called_by(facts)
    head = [*names, "log p(x)", "± Monte Carlo", "Pareto k", "ESS", "draws"]
    return table(head, rows, caption=caption, text=len(names))


def training(facts: Facts) -> Html:
    """Learning curves, and what training took."""
    history = facts.history
    if not history:
        return paragraph(
            "The run folder has no metrics.csv with the course of the training.", class_="missing"
        )
    last, epochs = history[-1], [row["epoch"] for row in history]

    def series(**kinds: str) -> dict[str, tuple[list[float], list[float]]]:
        found = {kind: (epochs, [row[name] for row in history]) for kind, name in kinds.items()}
        return {kind: xy for kind, xy in found.items() if any(map(math.isfinite, xy[1]))}

    bounds = series(a="elbo", **{"a dashed": "validation_elbo"})
    values = sorted(v for _, y in bounds.values() for v in y if math.isfinite(v))
    low = (
        values[len(values) // 20] if len(epochs) > 10 else None
    )  # the first epochs would flatten all that follows
    parts = series(
        a="reconstruction",
        **{"a dashed": "validation_reconstruction"},
        b="kl",
        **{"b dashed": "validation_kl"},
    )
    names = {"a": "training", "a dashed": "validation"}
    both = {"a": "reconstruction", "b": "KL", "a dashed": "on validation data"}
    seen = f"{number(last['elbo'])} on training data and {number(last['validation_elbo'])} on validation data"
    axes = ("epoch", "nats per datum")
    pictures = (
        []
        if not bounds or not parts
        else [
            figure(
                charts.legend({k: v for k, v in names.items() if k in bounds}),
                charts.lines(
                    bounds, labels=axes, low=low, alt=f"ELBO by epoch, at the end {seen}."
                ),
                caption=f"ELBO by epoch, at the end {seen}.",
            ),
            figure(
                charts.legend({k: v for k, v in both.items() if k in parts}),
                charts.lines(
                    parts,
                    labels=axes,
                    alt="Reconstruction and KL by epoch, on training and validation data.",
                ),
                caption="Its two parts. A KL near 0 would say that the latents go unused.",
            ),
        ]
    )
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
            tag("div", *pictures, class_="pair"),
            table(["", ""], rows, caption="The training", text=2),
        ]
    )


def latents(facts: Facts) -> Html:
    """What the latents carry."""
    found = facts.s.get("latents")
    if not found:
        return _missing(
            "What the latents carry", "It needs two data or more; evaluate without --limit 1."
        )
    low, high = found["active_interval"]
    kl, information, aggregated = (
        found[name] for name in ("kl", "mutual_information", "aggregated_kl")
    )
    most = number(found["mutual_information_upper"])
    upper = f"at most {most} by the estimate that leaves out each datum's own share"
    of = f"of {len(found['activity'])}; in brackets the 95 % interval by resampling the data"
    saved = "how far all posteriors together are from the prior; what a better prior could save"
    rows = [
        [
            _named(term("active", "active latents"), of),
            f"{found['active_units']} ({low} to {high})",
        ],
        [_named("KL(q(z|x) || p(z))", "nats per datum; the sum of the two below"), _pair(kl)],
        [
            _named(
                term("information", "I(x; z)"), f"mutual information: what z tells about x; {upper}"
            ),
            _pair(information),
        ],
        [_named("KL(q(z) || p(z))", saved), _pair(aggregated)],
    ]
    activity, values = found["activity"], found["kl_per_dimension"]
    label = "variance of the posterior mean" if values is None else "KL, nats per datum"
    values = activity if values is None else values
    order = sorted(range(len(values)), key=lambda d: -values[d])
    drawn = charts.bars(
        [values[d] for d in order],
        [f"{d}" for d in order],
        ["a" if activity[d] > ACTIVE else "idle" for d in order],
        labels=("latent (from 0)", label),
        alt=f"{label} of each latent, from {number(max(values))} to {number(min(values))}.",
    )
    keys = charts.legend({"a": "active", "idle": "not active"})
    return join(
        [
            paragraph(found["verdict"]),
            table(["", "value"], rows, caption=f"What the latents carry, on {found['data']} data"),
            figure(
                keys,
                drawn,
                caption=f"The latents in order: {label}. Latents without a bar carry next to nothing.",
            ),
            shown(facts, "aggregated_posterior", "posterior_means", "latents"),
        ]
    )


def _pair(found: Mapping[str, Any]) -> str:
    return estimate(found["value"], found["standard_error"])


def samples(facts: Facts) -> Html:
    """What the model draws."""
    names = [
        "prior" if "prior" in facts.pictures else "prior_samples",
        "reconstructions",
        "interpolation",
        "traversal",
    ]
    pictures = shown(facts, *names, "manifold")
    wanted = on_run("sample", facts.folder, place=facts.place)
    more = (
        None
        if "traversal" in facts.pictures
        else _missing(
            "Interpolation and traversal",
            "Draw them with ",
            code(wanted),
            " and write the report again.",
        )
    )
    return join([pictures, more])


def gaps(facts: Facts) -> Html:
    """Why the ELBO lies below log p(x)."""
    found = facts.s.get("gaps")
    if not found:
        return _missing("Why the ELBO lies below log p(x)", _add("--gaps"))
    meanings = {
        "log p(x)": "weighted from the refined q",
        "L[q*]": "the ELBO of q*, the best of the guide's family for each datum",
        "L[q]": "the ELBO of the guide",
        "approximation": "log p(x) − L[q*]: what a richer family of guides could gain",
        "amortisation": "L[q*] − L[q]: what a better encoder could gain",
        "inference": "log p(x) − L[q]: the sum of the two",
    }
    rows = []
    for name, part in found.items():
        errors = part["data_standard_error"], part["monte_carlo_standard_error"]
        cells = [number(v, *errors) for v in (part["mean"], *errors)]
        rows.append([_named(name, meanings.get(name, "")), *cells])
    return table(
        ["nats per datum", "mean", "± data", "± Monte Carlo"],
        rows,
        caption="The gaps of the family and the encoder",
    )


def opinions(facts: Facts) -> Html:
    """Estimates that owe nothing to the guide."""
    ais, bdmc, marginal = facts.s.get("ais"), facts.s.get("bdmc"), facts.s["log_marginal"]
    parts = []
    if ais:
        told = f"{ais['num_chains']} chains over {ais['num_temperatures']} temperatures"
        rows = []
        for name, part, note in (
            ("importance weighting", marginal, "from the guide"),
            ("annealed importance sampling", ais, f"from the prior, by {told}"),
        ):
            errors = part["data_standard_error"], part["monte_carlo_standard_error"]
            rows.append(
                [_named(name, note), *(number(v, *errors) for v in (part["mean"], *errors))]
            )
        parts.append(
            table(
                ["log p(x), nats per datum", "mean", "± data", "± Monte Carlo"],
                rows,
                caption="The same data, two ways",
            )
        )
    else:
        parts.append(_missing("Annealed importance sampling", _add("--ais")))
    if bdmc:
        parts.append(
            paragraph(
                f"On {bdmc['data']} data drawn from the model itself, log p(x) lies between {number(bdmc['lower'])} "
                f"and {number(bdmc['upper'])} nats: annealing over {bdmc['num_temperatures']} temperatures leaves "
                f"a gap of {estimate(bdmc['gap'], bdmc['gap_standard_error'])}."
            )
        )
    else:
        parts.append(
            _missing("Bounds on both sides, by bidirectional Monte Carlo", _add("--bdmc 100"))
        )
    return join(parts)


def posterior(facts: Facts) -> Html:
    """The guide beside draws of the posterior, for a few data."""
    found = facts.s.get("posterior")
    if not found:
        return _missing("The guide beside draws of the posterior", _add("--posterior 4"))
    names = {
        "kl": "KL(q || p)",
        "kl_noise": "noise",
        "mean_off": "mean off",
        "ratio_least": "sd ratio: least",
        "ratio_median": "median",
        "ratio_most": "most",
        "rhat": "R-hat",
        "ess_bulk": "ESS",
        "divergences": "diverged",
    }
    rows = [
        [
            f"datum {i}",
            *(
                number(row[name], *([10] if name in ("ess_bulk", "divergences") else []))
                for name in names
            ),
        ]
        for i, row in zip(found["data"], found["rows"], strict=True)
    ]
    return join(
        [
            table(
                ["", *names.values()],
                rows,
                caption="The moments of the guide beside those of the posterior",
            ),
            paragraph(
                f"By {found['num_chains']} chains of {short(found['num_samples'])} draws for each datum. KL is that "
                "of the two Gaussians with these moments, in nats; the noise is what the error of the draws adds. "
                "Of all latents: the largest distance of the means, in standard deviations (sd) of the posterior; sd "
                "of the guide over that of the posterior, below 1 where the guide is too narrow; the worst R-hat and "
                "effective sample size (ESS)."
            ),
            tag("ul", *(tag("li", warning) for warning in found["warnings"]))
            if found["warnings"]
            else None,
            shown(facts, "posterior"),
        ]
    )


def worst(facts: Facts) -> Html:
    """The data that the model finds least probable."""
    values = facts.columns["values"]
    order = np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")[:WORST]
    parts = []
    if np.isfinite(values).any():
        told = f"log p(x) of {len(values)} data, from {number(values.min())} to {number(values.max())} nats."
        parts.append(
            figure(
                charts.histogram(values, label="log p(x), nats", alt=f"Histogram. {told}"),
                caption=told,
            )
        )
    if facts.data is not None and is_image(facts.data[:1].shape[1:]):
        parts.append(_thumbnails(facts, order))
    parts.append(
        _data_table(
            facts, order, f"The {len(order)} data with the lowest log p(x); rows are counted from 0"
        )
    )
    return join(parts)


def _thumbnails(facts: Facts, order: np.ndarray) -> Html:
    chosen = np.stack(
        [facts.data[i : i + 1][0].detach().cpu().float().numpy() for i in order.tolist()]
    )
    low, high = min(0.0, float(chosen.min())), max(1.0, float(chosen.max()))
    shown = []
    for i, x in zip(
        order.tolist(), ((chosen - low) / (high - low) * 255).round().astype(np.uint8), strict=True
    ):
        pixels = x if x.ndim == 2 else x[0] if len(x) == 1 else np.moveaxis(x, 0, -1)
        value = number(facts.columns["values"][i], 0.1)
        words = [v if k == "name" else f"{k} {v}" for k, v in _called(facts, i).items()]
        called = ", ".join(words)
        image = picture(Image.fromarray(pixels), f"{called}, log p(x) {value}", "pixels")
        shown.append(figure(image, caption=f"{called}: {value}"))
    return tag("div", *shown, class_="thumbnails")


def configuration(facts: Facts) -> Html:
    """Every setting, the versions, and how to repeat it."""
    defaults = {f.name: f.default for f in fields(Config)}
    rows = []
    for name, value in facts.config.items():
        if name != "resolved":
            usual = defaults.get(name)
            rows.append(
                [
                    code(name),
                    tag("strong", short(value)) if value != usual else short(value),
                    short(usual),
                ]
            )
    s, versions = facts.s, facts.s.get("versions") or {}
    came = [
        [key.replace("_", " "), short(value)]
        for key, value in facts.resolved.items()
        if key != "version"
    ]
    came += [["version that trained", facts.resolved.get("version", "?")]]
    came += [[f"{name} that evaluated", version] for name, version in versions.items()]
    came += [
        ["checkpoint", s.get("checkpoint", "?")],
        ["seed of the evaluation", str(s.get("seed", "?"))],
    ]
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
            table(["", ""], came, caption="What they came to", text=2),
        ]
    )


Section = Callable[[Facts], Html]

SECTIONS: dict[str, tuple[str, Section]] = {
    "number": ("The number", the_number),
    "trust": ("Can it be trusted?", trust),
    "training": ("Training", training),
    "latents": ("Latents", latents),
    "samples": ("Samples and reconstructions", samples),
    "gaps": ("Why the ELBO lies below", gaps),
    "opinions": ("A second opinion", opinions),
    "posterior": ("The guide beside the posterior", posterior),
    "worst": ("The least probable data", worst),
    "configuration": ("Configuration", configuration),
}
