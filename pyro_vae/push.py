"""`python -m pyro_vae.push RUN REPO`: a run to the Hugging Face Hub, without its data."""

from pyro_vae.foundation.endings import at_once

if __name__ == "__main__":
    at_once("pyro_vae.push")  # before anything that takes time

from pyro_vae._cli.options import answer, push_parser

if __name__ == "__main__":
    answer(push_parser())  # before the imports, which take seconds

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pyro_vae._cli.hub import (
    REPLACED,
    asking_the_hub,
    check_run,
    client,
    gather,
)
from pyro_vae._cli.options import run


def main(arguments: Sequence[str]) -> None:
    """Run the program with these command-line arguments."""
    options = push_parser().parse_args(arguments)
    folder, repo = Path(options.run), options.repo
    check_run(folder)
    hub = client()
    with tempfile.TemporaryDirectory() as made, asking_the_hub(repo):
        names = gather(folder, Path(made))
        hub.create_repo(repo, private=options.private or None, exist_ok=True)
        if options.revision is not None:
            hub.create_branch(repo, branch=options.revision, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo,
            folder_path=made,
            revision=options.revision,
            commit_message=f"Run {folder.resolve().name}",
            delete_patterns=REPLACED,
        )
    print(f"{len(names)} files of {folder}: {', '.join(names)}")
    print(f"written: {commit.commit_url}")


if __name__ == "__main__":
    run("pyro_vae.push", main)
