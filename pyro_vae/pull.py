"""`python -m pyro_vae.pull REPO`: a run from the Hugging Face Hub, of which no code is run."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.pull")  # before anything that takes time

from pyro_vae._cli.options import answer, pull_parser

if __name__ == "__main__":
    answer(pull_parser())  # before the imports, which take seconds

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pyro_vae._cli.hub import (
    HANDED,
    PATTERNS,
    asking_the_hub,
    client,
    placed,
)
from pyro_vae._cli.options import run
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import MARK
from pyro_vae.foundation.reading import user_path
from pyro_vae.runs import is_run, on_run


def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = pull_parser().parse_args(arguments)
    repo = options.repo
    folder = Path("runs") / repo.rpartition("/")[2]
    if options.folder is not None:
        folder = user_path(options.folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is there already; name another folder")
    hub = client()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=MARK, dir=folder.parent) as made:
        there = Path(made) / "run"
        with asking_the_hub(repo):
            hub.snapshot_download(
                repo,
                revision=options.revision,
                local_dir=there,
                allow_patterns=[*PATTERNS],
            )
        _keep_ours(there)
        if not is_run(there) or not (there / "best.safetensors").is_file():
            raise InputError(
                f"{repo} is no run of this package: it has no config.toml of training with best.safetensors beside it"
            )
        placed(there, folder)
    print(f"written: {folder}")
    print(f"next: {on_run('evaluate', folder)}")


def _keep_ours(folder: Path) -> None:
    """Remove what is no file of a run, and what the client wrote for itself."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (path.is_file() and not HANDED.fullmatch(name)):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


if __name__ == "__main__":
    run("pyro_vae.pull", main)
