"""A run as one HTML page, for a reader who has not seen the code."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pyro_vae._evaluations import named, read_evaluation
from pyro_vae._metrics import read_metrics
from pyro_vae.checkpoint import checkpoint_path, is_older
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import write_atomically
from pyro_vae.foundation.html import Html, tag
from pyro_vae.foundation.reading import read_toml
from pyro_vae.report.answers import answers, not_asked
from pyro_vae.report.facts import NEEDED, Facts, warnings_of
from pyro_vae.report.glossary import glossary
from pyro_vae.report.page import code, page
from pyro_vae.report.sections import SECTIONS, hero
from pyro_vae.runs import OF_AN_EVALUATION

__all__ = ["report", "write_report"]


def report(
    folder: str | Path,
    *,
    split: str = "test",
    evaluation: str | None = None,
    data: Any = None,
) -> str:
    """A run folder as one HTML page, with pictures and style inside: nothing is loaded, and no script runs.

    Args:
        folder: the run folder, trained and evaluated.
        split: whose evaluation, `'train'`, `'validation'` or `'test'`: the one of all of its data.
        evaluation: another evaluation of the run, by the name of its files without ending.
        data: the evaluated data, `(N, *shape)`, in the order of the evaluation: with them, pictures of the least
            probable ones are shown. A tensor, or anything whose slices are tensors.

    Returns:
        The text of the page.

    Raises:
        InputError: when the folder holds no run or no evaluation of the split, or its files are damaged.
    """
    folder = Path(folder)
    name = named(str(folder), split)[1] if evaluation is None else evaluation
    result = read_evaluation(folder, name)
    s = result.summary
    if bad := [key for key in NEEDED if not isinstance(s.get(key), dict)]:
        raise InputError(
            f"the evaluation of {folder} is damaged: it does not say {bad[0]!r}; evaluate the run again"
        )
    pictures = {p.stem: p for p in _pictures(folder, s)}
    history = read_metrics(folder / "metrics.csv", 10**9)
    config = read_toml(folder / "config.toml")
    facts = Facts(folder, s, result.columns, config, history, pictures, data)
    return page(f"{folder.resolve().name}: report", _style(), *_body(facts))


def _pictures(folder: Path, s: Mapping[str, Any]) -> list[Path]:
    """The pictures of training, of encoding and of this evaluation, and those of sampling its weights, which win."""
    drawn = sorted((folder / "figures").glob("*.png"))
    if isinstance(s.get("figures"), list):
        mine = [folder / str(name) for name in s["figures"]]
        drawn = [p for p in drawn if not OF_AN_EVALUATION.fullmatch(p.name)]
        drawn += [
            p
            for p in mine
            if p.is_file() and p.parent.resolve().is_relative_to(folder.resolve())
        ]
    best = checkpoint_path(folder)
    sampled = sorted((folder / "samples").glob("*.png"))
    return [*drawn, *(p for p in sampled if not is_older(p, best))]


def write_report(
    folder: str | Path,
    path: str | Path,
    *,
    split: str = "test",
    evaluation: str | None = None,
    data: Any = None,
) -> None:
    """Write `report` to a file, replaced in one move; arguments as there."""
    text = report(folder, split=split, evaluation=evaluation, data=data)
    write_atomically(
        Path(path), lambda beside: beside.write_text(text, encoding="utf-8")
    )


def _body(facts: Facts) -> tuple[Html, ...]:
    warnings = warnings_of(facts)
    sections = {
        key: (title, render(facts)) for key, (title, render) in SECTIONS.items()
    }
    behind = {key: sections.pop(key) for key in ("samples", "worst")}
    last = sections.pop("configuration")
    sections |= {
        **answers(facts),
        **behind,
        "questions": ("Further questions", not_asked(facts)),
    }
    sections |= {"configuration": last, "glossary": ("Glossary", glossary())}
    links = (
        tag("li", tag("a", title, href=f"#{key}"))
        for key, (title, _) in sections.items()
    )
    header = tag(
        "header",
        tag("p", "Report of a variational autoencoder", class_="kicker"),
        tag("h1", facts.s["dataset"]),
        tag("p", "run ", code(facts.place), f", {facts.s['split']} data", class_="sub"),
    )
    contents = tag(
        "nav", tag("h2", "Contents"), tag("ol", *links), aria_label="Contents"
    )
    body = (
        tag("section", tag("h2", title), content, id=key)
        for key, (title, content) in sections.items()
    )
    return contents, tag("main", header, hero(facts, warnings), *body)


def _style() -> str:
    return files("pyro_vae.report").joinpath("style.css").read_text(encoding="utf-8")
