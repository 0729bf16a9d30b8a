"""Figures: of any shape and any number of data, with any text, in bounded size."""

import gc
import io
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import Spec, build, plots
from pyro_vae._cli.outputs import draw
from pyro_vae.plots import pictures
from pyro_vae.plots.canvas import drawable
from pyro_vae.plots.lines import beside_pixels, drawing_in, drawing_of


def drawn(figure):
    """The pixels of a figure; warnings, as of a glyph that is missing, are errors."""
    file = io.BytesIO()
    figure.savefig(file)
    return np.asarray(Image.open(file).convert("RGB"))


def test_numbers_with_gradients_are_drawn():
    values = torch.rand(50, requires_grad=True)
    drawn(plots.histogram(values, "numbers"))
    drawn(
        plots.separation(
            ("in", "out"),
            dict.fromkeys("abcd", (values, values)),
            dict.fromkeys("abcd", 0.5),
        )
    )


SHAPES = [
    *(
        (28, 28),
        (3, 16, 16),
        (1, 8, 8),
        (200, 4),
        (2, 500),
        (1, 1),
        (5, 9, 7),
        (3, 400, 300),
    ),
    *((1,), (2,), (300,), (20_000,), (4, 3, 5, 6), (40, 8, 8)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 25])
def test_data_of_any_shape_fill_a_figure_of_bounded_size(shape, count):
    x = torch.rand((count, *shape), generator=torch.Generator().manual_seed(0))
    pixels = drawn(plots.grid(x, columns=min(10, count), title="draws"))
    assert max(pixels.shape) < 2500
    assert min(pixels.shape[:2]) > 60
    assert (pixels < 250).mean() > 0.02


def test_figures_of_a_program_are_let_go_one_by_one(tmp_path):
    alive, most = weakref.WeakSet(), []

    def make():
        gc.collect()
        most.append(len(alive))
        figure = plots.histogram(torch.rand(5), "numbers")
        alive.add(figure)
        return figure

    files = {tmp_path / f"{name}.png": make for name in "abcd"}
    written, failed = draw(files, ("png", "svg"))
    assert ([path.name for path in written[:3]], failed) == (
        ["a.png", "a.svg", "b.png"],
        [],
    )
    assert max(most) <= 1
    assert len(most) == 4


def test_many_data_are_shown_in_part():
    figure = plots.grid(torch.rand(5000, 4, 4), columns=10, title="draws")
    assert figure.axes[0].get_title() == "draws (the first 600 of 5,000)"
    assert max(drawn(figure).shape) < 6000


def test_large_pictures_are_averaged():
    x = torch.zeros(1, 800, 800)
    x[:, ::2] = 1.0  # which every second pixel would make white or black
    canvas = plots.grid(x, columns=1).axes[0].images[0].get_array()
    assert np.allclose(canvas, 0.5, atol=0.1)


def test_a_long_line_keeps_its_peaks():
    x = torch.zeros(2, 20_000)
    x[0, 12_345] = 1.0
    (lines,) = plots.grid(x, columns=2).axes[0].collections
    peaks = [segment[:, 1].max() for segment in lines.get_segments()]
    assert np.allclose(peaks, [0.9, 0.1])


ODD = [
    "$5_to_$10",
    "$\\frac",
    "_",
    "_x",
    "",
    " ",
    "a\nb",
    "猫",
    "é",
    "x" * 100,
    "\udcff",
    "a\tb",
]


def test_labels_are_drawn_as_they_are():
    labels = np.array([ODD[i % len(ODD)] for i in range(60)])
    figure = plots.scatter(torch.randn(60, 2), labels)
    assert drawn(figure).std() > 0
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == len(set(labels.tolist()))
    assert {"$5_to_$10", "$\\frac", " _x", "a\\nb", "\\u732b", "é", "\\udcff"} <= set(
        texts
    )
    assert max(map(len, texts)) <= 40


@pytest.mark.parametrize("name", ["$5_to_$10", "_new", "$", "日本"])
def test_names_of_other_data_are_drawn_as_they_are(name):
    scores = {k: torch.randn(50) for k in ("log_prob", "elbo", "regret", "typicality")}
    pairs = {score: (values, -values) for score, values in scores.items()}
    figure = plots.separation(("test", name), pairs, dict.fromkeys(scores, 0.5))
    drawn(figure)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["test", drawable(name)]


def test_a_histogram_counts_the_data_on_both_sides_of_a_limit():
    k = torch.cat([torch.linspace(-0.3, 0.69, 60), torch.linspace(0.71, 1.3, 15)])
    axes = plots.histogram(
        torch.cat([k, torch.tensor([torch.inf])]), "k", limit=0.7
    ).axes[0]
    counts = {"below": 0, "beyond": 0}
    for bar in axes.patches:
        left, right = bar.get_x(), bar.get_x() + bar.get_width()
        assert right <= 0.7 + 1e-9 or left >= 0.7 - 1e-9
        counts["beyond" if left >= 0.7 - 1e-9 else "below"] += bar.get_height()
    assert counts == {"below": 60, "beyond": 15}


@pytest.fixture
def wide():
    """A model of 300 latents of which some move its data and the others do not."""
    torch.manual_seed(0)
    vae = build(
        Spec((6, 6), 300, "StandardNormal()", "Linear()", "Bernoulli()", "MeanField()")
    )
    (weight,) = [p for p in vae.model.decoder.parameters() if p.ndim == 2]
    with torch.no_grad():
        weight.mul_(1e-3)
        weight[:, [3, 70, 299]] = 1.0
    return vae


def test_the_latents_that_matter_are_traversed(wide):
    x = torch.rand(1, 6, 6).round()
    torch.manual_seed(1)
    figure, means = plots.traversal(wide, x, most=3)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["z[3]", "z[70]", "z[299]"]
    assert "of 300 the 3 that change it most" in figure.axes[0].get_title()
    torch.manual_seed(1)
    z = wide.encode(x).sample().repeat(11, 1)
    z[:, 70] = torch.linspace(-3, 3, 11)
    assert torch.allclose(means[1], wide.decode(z).mean, atol=1e-6)


def test_all_latents_are_traversed_where_they_are_few(wide, monkeypatch):
    x = torch.rand(1, 6, 6).round()
    torch.manual_seed(1)
    _, means = plots.traversal(wide, x, most=300)
    assert means.shape == (300, 11, 6, 6)
    monkeypatch.setattr(pictures, "MANY", 5 * 11 * 300)  # five latents at a time
    torch.manual_seed(1)
    assert torch.allclose(plots.traversal(wide, x, most=300)[1], means, atol=1e-6)


def test_pictures_that_take_too_much_memory_are_fewer(wide, monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST", 5 * 11 * 36 * 4)
    assert plots.traversal(wide, torch.rand(1, 6, 6).round())[1].shape == (5, 11, 6, 6)
    plane = build(
        Spec((6, 6), 2, "StandardNormal()", "Linear()", "Bernoulli()", "MeanField()")
    )
    assert plots.manifold(plane)[1].shape == (7, 7, 6, 6)


def test_a_bound_that_is_flat_but_for_rounding_is_drawn_flat():
    curve = {k: torch.full((5,), 18.3, dtype=torch.float64) for k in (1, 10, 100)}
    curve[1] = curve[1] - 1e-12
    (axes,) = plots.bound_curve(curve).axes
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(plots.numbers.LEAST_SPAN)
    assert low < 18.3 < high


def test_latents_of_layers_are_called_by_their_layer():
    used, names = torch.tensor([1.0, 3.0, 2.0]), ["z2_0", "z1_0", "z1_1"]
    (axes,) = plots.use_of_latents(used, used > 0, "KL", names).axes
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["z1_0", "z1_1", "z2_0"]


def test_a_file_of_lines_keeps_their_drawing_and_one_of_many_points_does_not():
    few, many = (plots.scatter(torch.randn(n, 2), None) for n in (400, 6000))
    svg = drawing_of(few)
    assert svg.count("<use") >= 400
    assert drawing_of(many) is None
    assert drawing_of(plots.grid(torch.rand(4, 8, 8), columns=2, title="t")) is None
    file = io.BytesIO()
    few.savefig(file, format="png", pil_kwargs={"pnginfo": beside_pixels(svg)})
    assert drawing_in(Image.open(file)) == svg
    bare = io.BytesIO()
    few.savefig(bare, format="png")
    assert drawing_in(Image.open(bare)) is None
