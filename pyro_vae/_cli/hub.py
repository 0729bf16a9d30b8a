"""What goes to the Hugging Face Hub of a run and what comes from there, and why a call of it failed."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from pyro_vae import __version__
from pyro_vae.data.files import read_npz
from pyro_vae.foundation.errors import InputError, one_line
from pyro_vae.foundation.files import write_atomically
from pyro_vae.foundation.reading import read_json, read_toml
from pyro_vae.runs import EVALUATION, FIGURES, is_run, owned, public_name
from pyro_vae.second import RECORD

# What a run is handed on with: not the latents, samples and pages that show its data, nor logs.
HANDED = re.compile(
    "|".join(
        (
            r"config\.toml|README\.md|metrics\.csv|second_prior\.json|thresholds\.json",
            r"(best|last|before)\.safetensors",
            rf"{EVALUATION}\.(json|npz)",
            rf"figures/{FIGURES}|figures/{EVALUATION}/[^/]+\.png",
            r"export/(encoder|decoder)\.(pt2|onnx)",
        )
    )
)
# The same as patterns of the Hub, somewhat wider.
NAMES = ("*.toml", "README.md", "*.csv", "*.json", "*.npz", "*.safetensors")
PATTERNS = (*NAMES, "figures/*.png", "figures/*/*.png", "export/*")
# Of an earlier push these go where the run no longer has them.
REPLACED = [
    *("evaluation*", "figures/*", "export/*", "second_prior.json"),
    *("thresholds.json", "before.safetensors", "last.safetensors"),
]
OF_ROWS = ("name", "label", "given_")  # arrays that tell which data they are of


def client() -> Any:
    """The client of the Hub.

    Raises:
        InputError: where its package is missing.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars, logging
    except ImportError:
        raise InputError(
            "the Hugging Face Hub needs the package huggingface_hub, which is missing: pip install 'pyro-vae[hub]'"
        ) from None
    logging.set_verbosity_error()  # what it has to say is said in a sentence
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(library_name="pyro_vae", library_version=__version__)


def check_run(folder: Path) -> None:
    """Raise `InputError` for a folder that is no run, or has no weights."""
    if not is_run(folder):
        raise InputError(
            f"{folder} is no run of this package: it has no config.toml that training wrote"
        )
    if not (folder / "best.safetensors").is_file():
        raise InputError(f"{folder} has no best.safetensors: it holds no weights yet")


def gather(folder: Path, into: Path) -> list[str]:
    """Copy what a run is handed on with; the names, relative to the folder.

    Places of data are left out of `config.toml`, all but the names of files, and what names rows of evaluations.
    """
    names = []
    for path in owned(folder):
        name = path.relative_to(folder).as_posix()
        if not HANDED.fullmatch(name):
            continue
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "config.toml":
            text = tomli_w.dumps(public_config(read_toml(path)))
            (into / name).write_text(text, encoding="utf-8")
        elif name == RECORD:
            found = read_json(path)
            found["from"] = _name(str(found["from"]))
            (into / name).write_text(json.dumps(found, indent=1), encoding="utf-8")
        elif path.suffix == ".npz":
            _without_rows(path, into / name)
        else:
            shutil.copyfile(path, into / name)
        names.append(name)
    return names


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run with the names of files in place of where they lay."""
    found = {k: v for k, v in config.items() if k != "data_dir"}
    found["dataset"] = public_name(str(config["dataset"]))
    for name in ("labels", "from"):
        if name in found:
            found[name] = _name(str(found[name]))
    resolved = dict(config["resolved"])
    if "source" in resolved:
        resolved["source"] = _name(str(resolved["source"]))
    return {**found, "resolved": resolved}


def _name(text: str) -> str:
    """The last part of a path; what is none stays."""
    return Path(text).name if re.search(r"[/\\~]", text) else text


def _without_rows(path: Path, copy: Path) -> None:
    kept = {k: v for k, v in read_npz(path).items() if not k.startswith(OF_ROWS)}
    write_atomically(copy, partial(_save, columns=kept))


def _save(path: Path, columns: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **columns)


@contextmanager
def asking_the_hub(repo: str) -> Iterator[None]:
    """What goes wrong between here and the Hub is one sentence.

    Raises:
        InputError: that sentence.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError:
        raise InputError(
            f"{repo!r} is no name of a repository on the Hub: give USER/NAME"
        ) from None
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{repo} has no such --revision on the Hub") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{repo} does not exist on the Hub, or it is private and no token that may read it is here: hf auth login, "
            "or HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        raise InputError(_refusal(repo, error)) from error
    except errors.LocalTokenNotFoundError:
        raise InputError(
            "no token for the Hub is here: hf auth login, or HF_TOKEN"
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise InputError(f"the Hub cannot be reached: {_first(error)}") from error
    except OSError:
        raise
    except Exception as error:
        if _of_network(error):
            raise InputError(f"the Hub cannot be reached: {_first(error)}") from error
        raise


def _refusal(repo: str, error: Any) -> str:
    """Why the Hub refused something."""
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return f"the Hub does not let this token write or read {repo}: hf auth login, or HF_TOKEN"
    return f"the Hub refused {repo}: {_first(error)}"


def _first(error: BaseException) -> str:
    return one_line(error)[:200]


def _of_network(error: BaseException) -> bool:
    """Whether an error is of the library that the client speaks HTTP by."""
    return (
        type(error)
        .__module__.partition(".")[0]
        .startswith(("httpx", "httpcore", "requests"))
    )


def placed(made: Path, folder: Path) -> None:
    """Move a run that was downloaded into its place.

    Raises:
        InputError: for a place that is taken.
    """
    try:
        os.replace(made, folder)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from error
