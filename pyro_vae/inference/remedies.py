"""What to do about a training run that went wrong, as options that can be pasted behind its own."""

import re
from collections.abc import Callable, Mapping
from typing import Any

WARM_UP = 10  # epochs


def remedy(kind: str, config: Mapping[str, Any]) -> str:
    """The option, or the options, against a kind of `Remark` in a run with this configuration.

    >>> remedy("collapsed", {"objective": "IWAE(num_particles=5)", "epochs": 100})
    '--objective "annealed(objective=IWAE(num_particles=5), epochs=10)"'
    """
    return REMEDIES[kind](config)


def _opened(config: Mapping[str, Any]) -> str:
    """Against latents that carry nothing: less pressure of the KL, first of all, or at least at the start."""
    objective = str(config.get("objective") or "ELBO()")
    beta = re.search(r"\bbeta=([0-9.eE+-]+)", objective)
    if beta is not None and float(beta[1]) > 1:
        return _quoted("objective", objective.replace(beta[0], "beta=1.0"))
    if "Annealed" not in objective:
        epochs = max(1, min(WARM_UP, int(config.get("epochs") or WARM_UP) // 2))
        return _quoted("objective", f"annealed(objective={objective}, epochs={epochs})")
    rate = float(config.get("learning_rate") or 1e-3)
    return f"--learning-rate {rate / 3:.1g}, or fewer latents with --latent-dim"


def _held(config: Mapping[str, Any]) -> str:
    """Against training and validation data that drift apart: stop, or hold the weights small."""
    if not config.get("patience"):
        return "--patience 10"
    decay = float(config.get("weight_decay") or 0)
    return f"--weight-decay {10 * decay or 1:g}"


def _shortened(config: Mapping[str, Any]) -> str:
    """Against a warm-up that passes through the best epoch: half of it."""
    objective = str(config["objective"])
    found = re.search(r"\bepochs=([0-9.]+)", objective)
    shorter = f"epochs={float(found[1]) / 2:g}" if found else "epochs=5"
    return _quoted(
        "objective",
        objective.replace(found[0], shorter)
        if found
        else re.sub(r"^Annealed\(", f"annealed({shorter}, ", objective).replace(
            ", )", ")"
        ),
    )


def _quoted(name: str, value: str) -> str:
    """An option for a shell; nothing in the grammar of members means anything inside double quotes."""
    return f'--{name} "{value}"'


REMEDIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "collapsed": _opened,
    "overfits": _held,
    "warm-up": _shortened,
}
