"""`python -m pyro_vae COMMAND ...`: what `pyro-vae` is, where that is not installed."""

from pyro_vae._cli.console import main

if __name__ == "__main__":
    main("python -m pyro_vae")
