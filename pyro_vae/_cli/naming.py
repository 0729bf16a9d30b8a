"""What a run is called that was given no name: after its data, its likelihood, and what else is not as usual."""

import re

from pyro_vae._config import OPTIONS, Config

USUAL = {
    "structure": "vae()",
    "prior": "standardnormal()",
    "guide": "meanfield()",
    "objective": "elbo()",
    "network": "mlp()",
}
NUMBERS = {
    "latent_dim": "z",
    "learning_rate": "rate",
    "labelled": "labelled",
    "seed": "seed",
}
LONGEST = 100  # characters


def run_name(config: Config, data: str) -> str:
    """The name of a run folder.

    Args:
        config: with the members that were chosen.
        data: what its data are called.

    >>> run_name(Config(likelihood="Bernoulli()"), "digits")
    'digits-bernoulli'
    >>> run_name(Config(likelihood="Bernoulli()", guide="LowRank(rank=2)", seed=1), "digits")
    'digits-bernoulli-lowrank-2-seed1'
    """
    words = [data, _word((config.likelihood or "").partition("(")[0])]
    for axis, usual in USUAL.items():
        member = getattr(config, axis) or usual
        if member.lower() != usual:
            words.append(_word(member))
    if config.condition is not None:
        words.append("given")
    if config.dims is not None:
        words.append(f"z{_word(config.dims)}")
    for name, short in NUMBERS.items():
        value = getattr(config, name)
        layered = name == "latent_dim" and config.dims is not None
        if value != OPTIONS[name].default and not layered:
            number = f"{value:g}" if isinstance(value, float) else str(value)
            words.append(f"{short}{number}")
    return "-".join(words)[:LONGEST].rstrip("-")


def _word(member: str) -> str:
    """A member without the names of its arguments and of its module, in letters and numbers."""
    values = re.sub(r"\w+=|[\w.]+:", "", member.lower())
    return re.sub(r"[^a-z0-9.]+", "-", values).strip("-")
