"""What pictures show, in numbers: scales, rows and their order, labels, ways through latents, directions."""

import math

import numpy as np
import pandas
import pytest
import torch
from matplotlib.colors import to_rgb

from pyro_vae import (
    MLP,
    VAE,
    Bernoulli,
    Gaussian,
    InputError,
    MeanField,
    Spec,
    StandardNormal,
    _drawing,
    build,
    fit,
    log_marginal,
    open_run,
    plots,
)
from pyro_vae.data.schema import Held
from pyro_vae.inference.ways import dense_way, directions, straight
from pyro_vae.plots.canvas import edges_of
from pyro_vae.plots.colours import COLOURS, MISSING, MOST_CLASSES, class_style
from pyro_vae.plots.looks import Look, as_series, kind_of, look_of, scale_of
from pyro_vae.plots.series import along_ways
from pyro_vae.plots.tables import heat_maps
from reading import mentions

# --- What data are taken for, and their scale -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        *(((8, 8), "image"), ((28, 20), "image"), ((3, 16, 16), "image")),
        *(((2, 64), "series"), ((64, 2), "series"), ((12, 100), "series")),
        *(((300,), "series"), ((1, 1), "series")),
    ],
)
def test_what_data_are_taken_for(shape, kind):
    assert kind_of(shape) == kind


def test_time_is_the_longer_side():
    x = torch.arange(24.0).view(2, 6, 2)
    assert torch.equal(as_series(x, 1)[1, 0], x[1, :, 0])


def test_the_scale_is_that_of_the_likelihood_or_of_the_data():
    x = torch.tensor([[-3.0, 5.0], [torch.nan, 1.0]])
    assert scale_of(Bernoulli((2,)), x) == (0.0, 1.0)
    assert scale_of(Gaussian((2,)), x) == (-3.0, 5.0)
    assert scale_of(Gaussian((2,))) is None


@pytest.mark.parametrize("planes", [1, 3])
def test_pictures_of_one_model_share_their_black_and_white(planes):
    """The same value is the same grey or colour whatever else the picture holds."""
    look = Look("image", (-2.0, 6.0))
    found = []
    for other in (0.0, 6.0):
        x = torch.full((2, planes, 20, 20), other)
        x[0] = 2.0
        canvas = plots.grid(x, columns=2, look=look).axes[0].images[0].get_array()
        found.append(np.asarray(canvas)[:20, :20])
    np.testing.assert_allclose(found[0], 0.5)
    np.testing.assert_allclose(found[0], found[1])


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.0, 255.0), (-3.0, 4.0), None])
@pytest.mark.parametrize("side", [20, 400])
def test_missing_pixels_look_missing_on_every_scale(scale, side):
    low, high = scale or (0.0, 1.0)
    half = side // 2
    x = torch.full((3, side, side), high)
    x[0] = low
    x[1, :half] = torch.nan
    x[1, half:, ::4] = torch.nan  # where pixels are averaged most of them are there
    x[2] = torch.nan
    figure = plots.grid(x, columns=3, look=Look("image", scale))
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    wide = len(canvas)
    full, holed, empty = (
        canvas[:, start : start + wide]
        for start in (0, (canvas.shape[1] - wide) // 2, canvas.shape[1] - wide)
    )
    assert (full == 0).all()
    assert (empty == 1).all()  # nothing is there: paper
    mark = np.array(to_rgb(MISSING))
    np.testing.assert_allclose(holed[: wide // 2] - mark, 0, atol=1e-6)
    below = holed[wide // 2 :].reshape(-1, 3)
    seen = (below == 1).all(1)
    np.testing.assert_allclose(below[~seen] - mark, 0, atol=1e-6)
    assert seen.mean() >= 0.7


def test_missing_categories_of_a_heat_map_are_blank():
    columns = [Held("sex", "category", ("f", "m")), Held("age", "real")]
    look = Look("table", columns=columns, seen=np.array([[0.0, 1.0], [1.0, 2.0]]))
    x = torch.tensor([[[0.0, 1.0], [torch.nan, torch.nan], [1.0, 2.0]]])
    figure = heat_maps(x, "", ["one"], ticks=["a", "b", "c"], look=look)
    shades = np.asarray(figure.axes[0].images[0].get_array())
    assert (shades[:, 1, 3] == 0).all()
    assert (shades[:, [0, 2], 3] > 0).all()


def test_values_beyond_the_scale_are_black_or_white():
    x = torch.tensor([-9.0, 9.0]).view(2, 1, 1).expand(2, 20, 20)
    figure = plots.grid(x, columns=2, look=Look("image", (0.0, 1.0)))
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    assert canvas[0, 0] == 0
    assert canvas[0, -1] == 1


def test_series_share_the_limits_of_the_data():
    data = torch.randn(9, 2, 40) * torch.tensor([1.0, 50.0])[:, None]
    look = look_of(Gaussian((2, 40)), data)
    made = [
        plots.series(data[:3], data[3:6], title="a", look=look),
        plots.beside({"data": data, "draws": 3 * data}, title="b", look=look),
    ]
    for figure in made:
        panels = np.array(figure.axes).reshape(2, -1)
        for channel, row in enumerate(panels):
            low, high = data[:, channel].min().item(), data[:, channel].max().item()
            for axes in row:
                bottom, top = axes.get_ylim()
                assert bottom == pytest.approx(low - 0.05 * (high - low), rel=1e-5)
                assert top == pytest.approx(high + 0.05 * (high - low), rel=1e-5)


def test_the_band_holds_its_share_of_draws():
    data, draws = torch.zeros(1, 1, 30), torch.randn(4000, 1, 1, 30)
    (axes,) = plots.series(data, data, draws).axes
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(1.645, abs=0.2)
    assert corners[:, 1].min() == pytest.approx(-1.645, abs=0.2)


@pytest.mark.parametrize(
    ("likelihood", "kind", "words"),
    [
        (Gaussian((2, 64)), "table", "no table"),
        (Gaussian((64,)), "image", "no images"),
        (Gaussian((64,)), "film", "not for 'film'"),
    ],
)
def test_what_data_cannot_be_is_said(likelihood, kind, words):
    with pytest.raises(InputError, match=words):
        look_of(likelihood, None, kind=kind)


# --- Colours and bins -------------------------------------------------------------------------------------------------


def test_classes_differ_in_colour_or_mark():
    styles = {(s["color"], s["marker"]) for s in map(class_style, range(MOST_CLASSES))}
    assert len(styles) == MOST_CLASSES


def seen_by_deuteranopes(colour):
    """What is left of a colour without the middle cones. Source: Viénot, Brettel & Mollon 1999, table of matrices."""
    linear = np.array(
        [
            c / 12.92 if c < 0.04 else ((c + 0.055) / 1.055) ** 2.4
            for c in to_rgb(colour)
        ]
    )
    m = np.array(
        [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]
    )
    return m @ linear


def test_colours_differ_without_red_or_green_cones():
    found = [seen_by_deuteranopes(c) for c in COLOURS]
    apart = [np.abs(a - b).max() for i, a in enumerate(found) for b in found[:i]]
    assert min(apart) > 0.06
    red, green = map(seen_by_deuteranopes, ("#d62728", "#7f7020"))  # a pair that fails
    assert np.abs(red - green).max() < 0.06


def test_bins_are_as_wide_as_the_data_say():
    values = np.random.default_rng(0).normal(size=5000)
    edges = edges_of(values, -4, 4)
    wished = 2 * np.diff(np.quantile(values, (0.25, 0.75)))[0] / 5000 ** (1 / 3)
    assert np.diff(edges)[0] == pytest.approx(wished, rel=0.02)
    assert len(edges_of(values[:8], -1, 1)) == 11  # ten bins at least
    assert len(edges_of(values, -400, 400)) == 61  # and sixty at most
    assert len(edges_of(np.zeros(100), 0, 0)) == 11


def test_bars_of_a_curve_are_errors_of_its_rise():
    last = torch.randn(400, dtype=torch.float64) * 10
    rise = torch.randn(400, dtype=torch.float64)
    (axes,) = plots.bound_curve({1: last - rise, 100: last}).axes
    (segments,) = [c.get_segments() for c in axes.collections]
    lengths = [np.ptp(segment[:, 1]) for segment in segments]
    assert lengths == pytest.approx([2 * rise.std().item() / math.sqrt(400), 0])


# --- Traversals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def known():
    """A pair of 4 latents: three are as wide as 1, 0.5 and 0.9 in the posterior, and one is that of the prior."""
    torch.manual_seed(0)
    vae = VAE(
        StandardNormal(4),
        MLP((4,), (1, 8, 8)),
        Bernoulli((8, 8)),
        MeanField(MLP((8, 8)), 4),
    )
    with torch.no_grad():
        for parameter in vae.guide.parameters():
            parameter.zero_()
    vae.encode = lambda x, c=None: torch.distributions.Independent(
        torch.distributions.Normal(
            torch.tensor([0.5, 0.0, 2.0, 0.0]).expand(len(x), 4),
            torch.tensor([1.0, 1.0, 0.5, 0.9]).expand(len(x), 4),
        ),
        1,
    )
    return vae


def test_latents_are_in_the_order_of_their_kl(known):
    x = torch.rand(400, 8, 8).round()
    kl = plots.kl_of_latents(known, x)
    means, scales = (
        torch.tensor([0.5, 0.0, 2.0, 0.0]),
        torch.tensor([1.0, 1.0, 0.5, 0.9]),
    )
    exact = (means**2 + scales**2 - 1) / 2 - scales.log()
    assert torch.allclose(kl, exact, atol=0.05)
    figure, values = plots.traversal(known, x[:1], kl=exact)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["z[2], KL 2.32", "z[0], KL 0.12", "z[3], KL 0.01"]
    assert "1 of 4 with a KL below 0.01 nats left out" in axes.get_title()
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert (ticks[0], ticks[5], ticks[-1]) == ("-3", "0", "3")
    assert values.shape == (3, 11, 8, 8)


@pytest.mark.parametrize(("alive", "rows"), [(3, 3), (5, 5), (9, 5)])
def test_of_many_latents_those_alive_are_shown_and_no_others(alive, rows):
    """Fewer of them than rows in the picture, as many, and more."""
    vae = build(Spec((4, 4), 12))
    kl = torch.zeros(12)
    kl[-alive:] = torch.arange(1.0, alive + 1)
    figure, values = plots.traversal(vae, torch.zeros(1, 4, 4), kl=kl, most=5)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    expected = [f"z[{11 - i}], KL {alive - i:.2f}" for i in range(rows)]
    assert (labels, len(values)) == (expected, rows)


def test_labels_of_codes_are_those_of_the_data_that_are_drawn():
    """Of more data than are drawn the codes are of some, spread evenly, and so are the labels."""
    vae = build(Spec((4,), 2))
    x = torch.arange(120.0)[:, None].expand(-1, 4) / 120
    figure = plots.draw_codes(vae, np.arange(120) // 60, x, count=40)
    drawn = [c.get_offsets() for c in figure.axes[0].collections]
    means = vae.posterior_mean(x).detach().numpy()
    for number, points in enumerate(drawn):
        of = means[60 * number : 60 * (number + 1)]
        apart = np.abs(np.asarray(points)[:, None] - of[None]).max(-1).min(1)
        assert len(points) == 20
        assert apart.max() < 1e-6


def test_where_all_are_dead_all_are_shown(known):
    figure, values = plots.traversal(known, torch.zeros(1, 8, 8), kl=torch.zeros(4))
    assert len(values) == 4
    assert "all 4 is below" in figure.axes[0].get_title()


def test_a_table_is_traversed_in_its_own_units():
    columns = [
        Held("age", "real"),
        Held("sex", "category", ("f", "m")),
        Held("visits", "order", (0, 1, 2)),
    ]
    seen = np.array([[30.0, 0, 0], [50.0, 1, 2]])
    look = Look("table", columns=columns, seen=seen)
    values = torch.tensor([[[40.0, 0.0, 1.0], [60.0, 1.0, 2.0]]])
    figure = plots.pictures.ways(values, "t", ["z[0]"], ticks=["-3", "3"], look=look)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["age", "sex", "visits"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["-3", "3"]
    cells = {t.get_position(): t.get_text() for t in axes.texts}
    assert [cells[0, j] for j in range(3)] == ["40", "f", "1"]
    assert [cells[1, j] for j in range(3)] == ["60", "m", "2"]
    shades = np.asarray(axes.images[0].get_array())
    middle, high = shades[0, 0, :3], shades[0, 1, :3]
    from matplotlib import colormaps

    np.testing.assert_allclose(middle, colormaps["cividis"](0.5)[:3], atol=0.01)
    np.testing.assert_allclose(high, colormaps["cividis"](1.0)[:3], atol=0.01)


# --- Ways and directions ----------------------------------------------------------------------------------------------


def test_a_dense_way_follows_a_ring():
    """Codes of a ring: the way goes round, where the density is, and the line through the middle, where none is."""
    angle = torch.rand(600, dtype=torch.float64) * 2 * math.pi
    radius = 2 + 0.1 * torch.randn(600, dtype=torch.float64)
    codes = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    def log_density(z):
        r = z.norm(dim=-1).clamp_min(1e-9)
        return -0.5 * ((r - 2) / 0.1) ** 2 - r.log()

    ends = torch.tensor([[[2.0, 0.0], [-2.0, 0.0]]], dtype=torch.float64)
    way, line = dense_way(codes, ends, steps=31), straight(ends, 31)
    assert torch.equal(way[0, [0, -1]], ends[0])
    assert way.norm(dim=-1).min() > 1.5
    assert line.norm(dim=-1).min() < 1e-9
    assert log_density(way).min() > log_density(line).min() + 50
    assert log_density(way).mean() > log_density(line).mean() + 50
    steps = (way[0, 1:] - way[0, :-1]).norm(dim=1)
    assert steps.max() < 1.05 * (math.pi * 2 / 30) * 1.5


def test_the_power_one_is_the_line():
    codes, ends = torch.randn(300, 3), torch.randn(4, 2, 3)
    assert torch.allclose(
        dense_way(codes, ends, power=1.0), straight(ends, 11), atol=1e-5
    )


def test_ways_between_the_same_point_stay():
    ends = torch.ones(1, 2, 3)
    assert torch.equal(dense_way(torch.ones(5, 3), ends, steps=4), torch.ones(1, 4, 3))


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"\(N, D\)"):
        dense_way(torch.zeros(5, 3), torch.zeros(1, 2, 2))
    with pytest.raises(InputError, match="finite"):
        dense_way(torch.full((5, 2), torch.nan), torch.zeros(1, 2, 2))


def test_a_direction_is_the_difference_of_means():
    rng = np.random.default_rng(0)
    codes, hat = (
        torch.randn(200, 5, dtype=torch.float64),
        rng.choice(["a", "b", "c", ""], 200),
    )
    for each in directions(codes, {"hat": hat}):
        kind = each.name.partition("=")[2]
        known = codes[torch.from_numpy(hat != "")]
        with_it = torch.from_numpy((hat == kind)[hat != ""])
        expected = known[with_it].mean(0) - known[~with_it].mean(0)
        torch.testing.assert_close(each.vector, expected)
        assert each.num_data == with_it.sum()


def test_a_controlled_direction_leaves_out_what_others_explain():
    """Two labels that go together, of which one alone moves the codes."""
    rng = np.random.default_rng(1)
    moves = rng.random(4000) < 0.5
    idle = np.where(rng.random(4000) < 0.9, moves, ~moves)
    codes = torch.from_numpy(
        moves[:, None] * np.array([[3.0, 0.0]])
    ) + 0.01 * torch.randn(4000, 2)
    labels = {"moves": moves, "idle": idle}
    alone = {d.name: d.vector for d in directions(codes, labels)}
    both = {d.name: d.vector for d in directions(codes, labels, controlled=True)}
    assert alone["idle=True"][0] > 2
    assert both["idle=True"].abs().max() < 0.01
    assert both["moves=True"].tolist() == pytest.approx([3, 0], abs=0.01)


def test_labels_that_give_no_direction_are_refused():
    with pytest.raises(InputError, match="needs two"):
        directions(torch.zeros(3, 2), {"hat": np.array(["a", "a", ""])})
    with pytest.raises(InputError, match="one for each"):
        directions(torch.zeros(3, 2), {"hat": np.array(["a", "b"])})


def test_arithmetic_decodes_the_moved_codes():
    torch.manual_seed(0)
    vae = VAE(
        StandardNormal(2),
        MLP((2,), (1, 8, 8)),
        Bernoulli((8, 8)),
        MeanField(MLP((8, 8)), 2),
    )
    x = torch.rand(30, 8, 8).round()
    towards = directions(vae.posterior_mean(x), {"hat": np.arange(30) % 2})
    figure, means = plots.arithmetic(vae, x[:2], towards, steps=(0, 1))
    for i, each in enumerate(towards):
        z = vae.posterior_mean(x[i : i + 1])
        torch.testing.assert_close(means[i, 1], vae.decode(z + each.vector).mean[0])
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["hat=0", "hat=1"]


# --- Runs, pairs and results ------------------------------------------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    """A map-style data set."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return torch.from_numpy(self.x[row]).float()


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    x = torch.rand(120, 8, 8).round()
    vae = VAE(
        StandardNormal(2),
        MLP((2,), (1, 8, 8)),
        Bernoulli((8, 8)),
        MeanField(MLP((8, 8)), 2),
    )
    return vae, x, fit(vae, x, epochs=2)


@pytest.mark.filterwarnings("error")
def test_a_pair_with_data_is_drawn_and_shows_itself(pair):
    vae, x, history = pair
    every = [
        plots.draw_samples(vae, x),
        plots.draw_reconstructions(vae, x),
        plots.draw_traversal(vae, x),
        plots.draw_interpolation(vae, x, dense=True),
        plots.draw_attributes(vae, {"hat": np.arange(120) % 3}, x),
        plots.draw_codes(vae, np.arange(120) % 30, x),
        plots.draw_training(history),
        plots.draw_result(log_marginal(vae.model, vae.guide, x, 50)),
    ]
    for figure in every:
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_who_lacks_a_label_lacks_no_category():
    labels = {"hat": np.array(["", "nan", "red", "red", "blue"], dtype=object)}
    assert _drawing._without(labels, "hat=red") == 4
    assert _drawing._without(labels, "hat=blue") == 2
    numbers = {"hat": np.array([np.nan, 1.0, 2.0])}
    assert _drawing._without(numbers, "hat=1") == 2


def test_attributes_of_data_with_conditions_are_of_all_of_them():
    vae = build(Spec((8, 8), 2, context=3))
    x, c = torch.rand(120, 8, 8).round(), torch.eye(3)[torch.arange(120) % 3]
    labels = {"hat": np.arange(120) % 3}
    figure = plots.draw_attributes(vae, labels, {"x": x, "c": c})
    ticks = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert ticks == ["hat=0", "hat=1", "hat=2"]


@pytest.mark.parametrize(
    "kind", [lambda x: x, np.asarray, pandas.DataFrame, np.ndarray.tolist, Rows]
)
def test_data_are_taken_as_the_other_functions_take_them(kind):
    """Tensors, arrays, DataFrames, lists and data sets give one picture."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    vae = build(Spec((3,), 2, likelihood="gaussian"))
    own = kind(x)
    labels = pandas.Series(["a", "b"] * 20, index=range(5, 45))
    drawn = [
        plots.draw_samples,
        plots.draw_reconstructions,
        plots.draw_traversal,
        plots.draw_interpolation,
        lambda vae, x: plots.draw_codes(vae, labels, x),
        lambda vae, x: plots.draw_attributes(vae, labels, x),
        lambda vae, x: plots.draw_attributes(vae, labels.to_frame("label"), x),
        lambda vae, x: plots.draw_attributes(vae, {"label": labels}, x),
    ]
    for draw in drawn:
        torch.manual_seed(0)
        figure = draw(vae, own)
        torch.manual_seed(0)
        expected = draw(vae, torch.from_numpy(x).float())
        assert figure._repr_png_() == expected._repr_png_()


@pytest.mark.parametrize("count", [10, 41, 80])
def test_labels_that_are_not_one_for_each_datum_are_refused(count):
    x = torch.randn(40, 3)
    vae = build(Spec((3,), 2, likelihood="gaussian"))
    for source, data in ((vae, x), (vae.posterior_mean(x).detach(), None)):
        with pytest.raises(InputError, match=f"there are {count} labels for 40"):
            plots.draw_codes(source, np.arange(count) % 2, data)


def test_a_pair_without_data_is_refused(pair):
    with pytest.raises(InputError, match="give them as x"):
        plots.draw_samples(pair[0])


def test_terms_of_a_result_are_bars_with_their_errors(pair):
    vae, x, _ = pair
    result = log_marginal(vae.model, vae.guide, x, 50)
    rows = {k: r for k, r in result.answer().rows.items() if hasattr(r, "mean")}
    (axes,) = plots.draw_result(result, "bars").axes
    assert [t.get_text() for t in axes.get_xticklabels()] == [*rows]
    with pytest.raises(InputError, match="no 'pie'"):
        plots.draw_result(result, "pie")


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("show_as", ["image", "series"])
def test_a_run_is_drawn_as_asked(trained, show_as):
    run = open_run(trained)
    assert run.look(show_as).kind == show_as
    assert run.look().scale == (0.0, 1.0)
    for name in ("samples", "reconstructions", "traversal", "interpolation"):
        getattr(plots, f"draw_{name}")(run, show_as=show_as)._repr_png_()


def test_figures_of_all_formats_and_ways(call, trained, tmp_path):
    options = ("--kind", "interpolation", "--way", "dense", "--figures", "svg,pdf")
    said = call("sample", trained, *options, "--count", 20, "--output", tmp_path)
    assert said.code == 0
    mentions(said.out, "interpolation.png, .svg, .pdf, .npy")
    assert (
        "by way of the codes of data</text>"
        in (tmp_path / "interpolation.svg").read_text()
    )
    assert (tmp_path / "interpolation.pdf").read_bytes().startswith(b"%PDF")
    first = (tmp_path / "interpolation.svg").read_bytes()
    assert (
        call("sample", trained, *options, "--count", 20, "--output", tmp_path).code == 0
    )
    assert (tmp_path / "interpolation.svg").read_bytes() == first


def test_attributes_are_drawn_by_the_command_line(call, trained, tmp_path):
    said = call("sample", trained, "--kind", "attributes", "--output", tmp_path)
    assert said.code == 0
    assert np.load(tmp_path / "attributes.npy").shape == (10, 6, 8, 8)


def test_attributes_of_a_file_give_the_directions(call, trained, tmp_path):
    """The means are those at `z + t b`, b the difference of the codes with and without the mark."""
    opened = open_run(trained)
    rows = opened.data.rows
    marks = np.arange(sum(map(len, rows.values()))) % 3 == 0
    path = tmp_path / "marks.csv"
    table = ["mark,depth", *(f"{int(m)},{i / 7:.3f}" for i, m in enumerate(marks))]
    path.write_text("\n".join(table))
    options = ("--kind", "attributes", "--attributes", path, "--output", tmp_path)
    assert call("sample", trained, *options).code == 0
    assert np.load(tmp_path / "attributes.npy").shape == (2, 6, 8, 8)
    said = call("sample", trained, *options, "--attribute", "mark")
    assert (said.code, said.err) == (0, "")
    (made,) = np.load(tmp_path / "attributes.npy")
    vae = opened.vae
    with torch.no_grad():
        codes = vae.posterior_mean(opened.split("train")[:])
        has = torch.from_numpy(marks[rows["train"]])
        towards = codes[has].mean(0) - codes[~has].mean(0)
        first = int(np.flatnonzero(~marks[rows["test"]])[0])
        x = opened.split("test")[first : first + 1]
        for t, mean in zip((-1, -0.5, 0, 0.5, 1, 1.5), made, strict=True):
            wanted = vae.decode(vae.posterior_mean(x) + t * towards).mean[0]
            np.testing.assert_allclose(mean, wanted.numpy(), atol=1e-4)
    said = call("sample", trained, *options, "--attribute", "hat")
    mentions(said.err, "--attribute 'hat'", "the run has label, mark, depth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--figures", "gif"), "choose from png, svg, pdf"),
        (("--attribute", "hat"), "the run has label"),
        (("--show-as", "table"), "no table"),
        (("--way", "bent"), "choose from"),
        (("--attributes", "none.csv"), "--attributes none.csv is no file"),
    ],
)
def test_wrong_wishes_are_said_in_a_sentence(call, trained, options, words):
    said = call("sample", trained, "--kind", "attributes", *options)
    assert said.code == 2
    assert len(said.err.splitlines()) == 1
    mentions(said.err, words)


@pytest.mark.parametrize(
    ("shape", "below", "beside"),
    [
        ((30,), "column", ""),
        ((2, 30), "time", "channel 0"),
        ((30, 2), "time", "channel 0"),
    ],
)
def test_lines_are_over_columns_or_times(shape, below, beside):
    """The columns of a wide table are no times, and its one row of panels is no channel."""
    x = torch.randn(4, 3, *shape)
    figures = [
        plots.series(x[0]),
        plots.beside({"data": x[0]}),
        along_ways(x, "a", list("abcd"), ticks=list("abc"), look=Look("series")),
    ]
    for figure in figures:
        axes = figure.axes
        assert {a.get_xlabel() for a in axes} - {""} == {below}
        assert axes[0].get_ylabel() == beside
    assert f"at each {below}" in figures[1].get_suptitle()


@pytest.mark.parametrize(
    ("size", "kind"), [(2, "column by column"), (24, "column by column"), (25, "lines")]
)
def test_narrow_tables_are_drawn_column_by_column(size, kind):
    """Of a pair as of a run: columns of few are no lines; they have the names of a DataFrame."""
    names = [f"c{i}" for i in range(size)]
    frame = pandas.DataFrame(torch.randn(40, size).numpy(), columns=names)
    vae = build(Spec((size,), 2, likelihood="gaussian"))
    figure = plots.draw_samples(vae, frame)
    titles = {axes.get_title() for axes in figure.axes}
    assert (set(names) <= titles) == (kind == "column by column")
    lines = plots.draw_samples(vae, frame, show_as="series")
    assert lines.axes[-1].get_xlabel() == "column"


@pytest.mark.parametrize("flat", [0, 1])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_the_plane_of_codes_is_no_strip(flat, share):
    """Units are equal on both axes, and a latent that hardly varies leaves room for its numbers."""
    codes = torch.randn(200, 2)
    codes[:, flat] *= share
    (axes,) = plots.scatter(codes, None).axes
    spans = [high - low for low, high in (axes.get_xlim(), axes.get_ylim())]
    assert max(spans) / min(spans) < 3
    assert axes.get_aspect() == 1
    for i, (low, high) in enumerate((axes.get_xlim(), axes.get_ylim())):
        assert low < codes[:, i].min()
        assert codes[:, i].max() < high
