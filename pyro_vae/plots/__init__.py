"""Figures: each function returns a matplotlib `Figure` and touches neither a screen nor a file.

Those that begin with `draw_` take a trained run, or a `VAE` with data; the others take arrays.
"""

from pyro_vae.plots.classes import confusion, reliability
from pyro_vae.plots.drawn import (
    draw_attributes,
    draw_codes,
    draw_interpolation,
    draw_reconstructions,
    draw_result,
    draw_samples,
    draw_training,
    draw_traversal,
)
from pyro_vae.plots.looks import Look, kind_of, look_of
from pyro_vae.plots.numbers import (
    aggregated_posterior,
    bars,
    bound_curve,
    brackets,
    histogram,
    learning_curves,
    posterior_pairs,
    scatter,
    separation,
    use_of_latents,
)
from pyro_vae.plots.pictures import (
    arithmetic,
    conditions,
    in_rows,
    interpolation,
    kl_of_latents,
    layers,
    manifold,
    reconstructions,
    transfer,
    traversal,
)
from pyro_vae.plots.ranks import simulated_ranks
from pyro_vae.plots.series import beside, series
from pyro_vae.plots.tables import table_marginals, table_pairs, table_reconstructions
from pyro_vae.plots.targets import calibration, predictions
from pyro_vae.plots.tiles import grid

__all__ = [
    "Look",
    "aggregated_posterior",
    "arithmetic",
    "bars",
    "beside",
    "bound_curve",
    "brackets",
    "calibration",
    "conditions",
    "confusion",
    "draw_attributes",
    "draw_codes",
    "draw_interpolation",
    "draw_reconstructions",
    "draw_result",
    "draw_samples",
    "draw_training",
    "draw_traversal",
    "grid",
    "histogram",
    "in_rows",
    "interpolation",
    "kind_of",
    "kl_of_latents",
    "layers",
    "learning_curves",
    "look_of",
    "manifold",
    "posterior_pairs",
    "predictions",
    "reconstructions",
    "reliability",
    "scatter",
    "separation",
    "series",
    "simulated_ranks",
    "table_marginals",
    "table_pairs",
    "table_reconstructions",
    "transfer",
    "traversal",
    "use_of_latents",
]
