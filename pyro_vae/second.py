"""A second prior on the codes of a trained run: where it begins, and what it gains."""

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checkpoint import checkpoint_path, load_weights
from pyro_vae.data.fields import Data, evenly
from pyro_vae.data.streams import batches
from pyro_vae.evaluation.paired import Comparison, compare
from pyro_vae.evaluation.weighting import log_marginal
from pyro_vae.foundation.abstract import forked_random, running
from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.seeking import check_learned
from pyro_vae.inference.terms import terms
from pyro_vae.models.vae import VAE
from pyro_vae.spec import Member, Members, Spec, parse_members

BEFORE = "before.safetensors"  # the weights of the other run, in the folder of this one
RECORD = "second_prior.json"
PARTICLES = 1000  # draws for each datum
DATA = 500  # at most
BATCH = 200
PRIOR = "model.prior."  # how the weights of a prior are called


@dataclass
class Kept:
    """The pair of a run that is kept but for its prior.

    Attributes:
        folder: the run.
        vae: the pair, with the prior that it has.
        spec: what it is made of.
        epoch: after which its weights were kept.
        content: of its checkpoint.
    """

    folder: Path
    vae: VAE
    spec: Spec
    epoch: int
    content: bytes

    @classmethod
    def of(cls, folder: Path) -> "Kept":
        """The best weights of a run."""
        path = checkpoint_path(folder)
        vae, spec, header = load_weights(path)
        return cls(folder, vae, spec, header["epoch"], path.read_bytes())

    def write(self, path: Path) -> None:
        """Its checkpoint into a file."""
        path.write_bytes(self.content)

    def with_prior(self, text: str) -> str:
        """The option `--prior` of the new run: its prior, and of several layers those below the top as they were.

        Raises:
            InputError: for the prior of a layer below the top, one that is to be sought later, and p(z|c) without c.
        """
        asked = parse_members("prior", text)
        theirs = parse_members("prior", self.spec.prior or "").others
        changed = [
            name for name, m in asked.others.items() if str(m) != str(theirs.get(name))
        ]
        if changed:
            raise InputError(
                f"--prior {text}: a second prior takes the place of that of the top, and the one of {changed[0]} is "
                "kept with the decoder: leave it out"
            )
        reads_c = "context" in inspect.signature(asked.usual.make).parameters
        if reads_c and not self.spec.context:
            raise InputError(
                f"--prior {text} is p(z|c), and the data of {self.folder} have no condition: take another"
            )
        return str(Members(_begun(asked.usual), theirs))

    def give(self, vae: VAE, spec: Spec) -> None:
        """Put the weights into a pair of another prior.

        Raises:
            InputError: where more than the prior differs.
        """
        if replace(spec, prior=self.spec.prior) != self.spec:
            raise InputError(
                f"the weights of {self.folder} are not of what its config.toml describes, so they cannot be kept"
            )
        check_learned(vae.model.prior)
        theirs = self.vae.state_dict()
        state = {k: v for k, v in theirs.items() if not k.startswith(PRIOR)}
        vae.load_state_dict(state, strict=False)


def _begun(member: Member) -> Member:
    """A prior that begins at the codes at once, and not after some epochs."""
    if member.arguments.get("start", 0) != 0:
        raise InputError(
            f"start={member.arguments['start']} of {member.name.lower()} waits for codes, and those of a trained run "
            "are there from the first: leave it out"
        )
    return member


def some(splits: dict[str, Any]) -> tuple[str, Any]:
    """The data by which two priors are compared, and their split: of the first that has any, spread evenly over it."""
    name, split = next((n, s) for n, s in splits.items() if len(s))
    index = evenly(DATA, len(split))
    return name, split.fixed().take(index)


@dataclass(frozen=True)
class Gain:
    """What another prior makes of the same data: `log p(x)` before and after, datum by datum, with the errors.

    Attributes:
        comparison: of `before` and `after`.
        what: what was compared: log p(x), or under a guide that is a point log p(z) of the codes.
        priors: the two.
        split: whose data.
        num_particles: draws for each datum; 0 where log p(z) is compared.
    """

    comparison: Comparison
    what: str
    priors: dict[str, str]
    split: str
    num_particles: int

    @classmethod
    def between(
        cls, pairs: dict[str, VAE], x: Any, priors: dict[str, str], split: str
    ) -> "Gain":
        """Ask the pairs `before` and `after` the same, with the same random numbers."""
        weighed = pairs["after"].guide.has_density
        ask: Callable[[VAE, Any], Any] = _log_marginal if weighed else _log_prior
        found = {}
        for name, vae in pairs.items():
            with forked_random():
                torch.manual_seed(0)
                found[name] = ask(vae, x)
        what = "log p(x)" if weighed else "log p(z) of the codes"
        count = PARTICLES if weighed else 0
        return cls(compare(found), what, priors, split, count)

    @property
    def better(self) -> bool:
        """Whether the second prior is not worse than the first, as far as can be told."""
        d = self.comparison.pair("after", "before")
        return d.mean >= 0 or not d.distinguishable

    def to_dict(self) -> dict[str, Any]:
        """The numbers for a file."""
        about = {"of": self.what, "split": self.split, "priors": self.priors}
        d = self.comparison.pair("after", "before")
        gain = {
            "mean": d.mean,
            "data_standard_error": d.data_standard_error,
            "monte_carlo_standard_error": d.monte_carlo_standard_error,
        }
        known = {k: v if math.isfinite(v) else None for k, v in gain.items()}
        numbers = {"num_particles": self.num_particles, "gain": known}
        return {**about, **numbers, **self.comparison.to_dict()}

    def __str__(self) -> str:
        d = self.comparison.pair("after", "before")
        first = next(iter(self.comparison.scores.values()))
        draws = f", {self.num_particles} particles" if self.num_particles else ""
        lines = [f"{self.what} of {len(first)} {self.split} data{draws}:"]
        for name in ("before", "after"):
            s = self.comparison.scores[name]
            mean = f"{s.mean:.3f} ± {s.data_standard_error:.3f}"
            lines.append(f"  {name:<8} {mean}  {self.priors[name]}")
        lines.append(
            f"  {'gain':<8} {d.mean:+.3f} ± {d.standard_error:.3f}  paired, nats per datum"
        )
        lines += [f"  warning: {sentence}" for sentence in self.comparison.warnings]
        if not self.better:
            lines.append(
                "  the second prior is worse than the first: train it longer, or take another"
            )
        return "\n".join(lines)


def _log_marginal(vae: VAE, x: Any) -> Any:
    return log_marginal(vae.model, vae.guide, x, num_particles=PARTICLES)


@torch.no_grad()
def _log_prior(vae: VAE, x: Any) -> Tensor:
    """`log p(z)` of a draw from q(z|x) for each datum, `(N,)`."""
    x = Data(x) if isinstance(x, dict) else x
    with running(vae.model, vae.guide):
        found = [
            terms(vae.model, vae.guide, few).log_pz[0] for few in batches(x, BATCH)
        ]
    return torch.cat(found)


def read_pairs(
    folder: Path, device: torch.device
) -> tuple[dict[str, VAE], dict[str, str]]:
    """The pairs before and after, by these names, and their priors."""
    files = {"before": folder / BEFORE, "after": checkpoint_path(folder)}
    read = {name: load_weights(path) for name, path in files.items()}
    pairs = {name: vae.to(device).eval() for name, (vae, _, _) in read.items()}
    return pairs, {name: str(spec.prior) for name, (_, spec, _) in read.items()}


def record(folder: Path, gain: Gain, **more: Any) -> Callable[[Path], None]:
    """What writes the numbers into a file."""
    text = json.dumps({**more, **gain.to_dict()}, indent=2) + "\n"

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write
