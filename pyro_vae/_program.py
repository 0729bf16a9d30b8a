"""What the programs share: devices, and the run folder they read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_vae._config import STREAM
from pyro_vae._errors import InputError
from pyro_vae._options import read_toml
from pyro_vae.build import Spec
from pyro_vae.checkpoint import checkpoint_path, load_weights
from pyro_vae.data import BRIDGES, Bridge, DataSet, Split, load_data
from pyro_vae.models.vae import VAE


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` takes the first of cuda, mps and cpu that there is."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise InputError(f"--device {name} is unknown: choose one of auto, cpu, cuda, mps")
    if not available[name]:
        raise InputError(
            f"--device {name} is not available here; --device auto takes what there is"
        )
    return torch.device(name)


@dataclass
class Run:
    """A trained run read back: the VAE, its data as it saw them, and what is known about both."""

    folder: Path
    vae: VAE
    spec: Spec
    epoch: int
    config: dict[str, Any]
    device: torch.device
    data: DataSet
    bridge: Bridge
    dtype: torch.dtype

    def split(self, name: str) -> Split:
        """One split as it is evaluated: its random bits or noise drawn once, from a fixed seed."""
        split = self.data.split(name, self.bridge, dtype=self.dtype).fixed()
        if len(split) == 0:
            raise InputError(f"the run {self.folder} has no {name} data; choose another --split")
        return split.to(self.device)


def open_run(folder: str, *, checkpoint: str, device: str, data_dir: str | None) -> Run:
    """Rebuild a run from its folder, without the command that made it."""
    path = checkpoint_path(folder, checkpoint)
    config = read_toml(Path(folder) / "config.toml")
    vae, spec, header = load_weights(path)
    chosen = pick_device(device)
    dtype = torch.float64 if config.get("precision") == "float64" else torch.float32
    try:
        resolved = config["resolved"]
        bridge = Bridge(resolved["bridge"], float(resolved["maximum"]))
        if bridge.kind not in BRIDGES:
            raise InputError(
                f"the file {Path(folder) / 'config.toml'} has an unknown bridge {bridge.kind!r}"
            )
        fields = (
            "dataset",
            "data_dir",
            "labels",
            "validation_fraction",
            "test_fraction",
            "maximum",
            "background",
        )
        request: dict[str, Any] = {field: config.get(field) for field in fields}
        request |= {
            "stream": STREAM[config.get("stream", "auto")],
            "workers": int(config.get("workers", 2)),
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the file {Path(folder) / 'config.toml'} does not describe a run: its table [resolved] is damaged"
        ) from error
    data = load_data(**{**request, "data_dir": data_dir or request["data_dir"]})
    if data.shape != spec.shape:
        raise InputError(
            f"{data.name} has data of shape {data.shape}, but the run was trained on {spec.shape}"
        )
    vae = vae.to(device=chosen, dtype=dtype).eval()
    return Run(Path(folder), vae, spec, header["epoch"], config, chosen, data, bridge, dtype)
