"""The run that the options of a program name."""

from typing import Any

from pyro_vae.trained import Run, open_run


def asked(options: Any, *, data: str | None = None) -> Run:
    """The run that the options of a program name, by `open_run`.

    Args:
        options: those of `run_parser`.
        data: where the run's own data are now; what `--data` says, where it means that.
    """
    return open_run(
        options.run,
        checkpoint=options.checkpoint,
        device=options.device,
        data=data,
        data_dir=options.data_dir,
        trust=options.trust,
    )
