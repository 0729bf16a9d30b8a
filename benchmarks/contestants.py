"""What `benchmarks.training` times: one training step of the same VAE, written in different ways.

Each function takes a `Setting` and returns a function that takes one step; `None` where there is no such contestant.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn
from torch.fx import Interpreter
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae import SVI, VAE, Spec, build
from pyro_vae.engine.affine import by_onednn, usual_products
from pyro_vae.engine.compiled import trace
from pyro_vae.engine.products import has_kernels
from pyro_vae.spec import parse

Step = Callable[[], Any]
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)
MLP = "mlp(hidden=(200, 200), activation='tanh')"
PRODUCTS = {
    "aten.mm",
    "aten.addmm",
    "aten.bmm",
    "aten.convolution",
    "aten.convolution_backward",
}
BATCHES = 20  # different batches, taken in turn


@dataclass(frozen=True)
class Setting:
    """One row of the table: a network, a guide, an objective and a batch size."""

    name: str
    batch_size: int
    network: str = MLP
    guide: str = "meanfield"
    objective: str = "elbo"
    latent_dim: int = 50
    device: str = "cpu"
    shape: tuple[int, ...] = field(default=(28, 28))

    @property
    def particles(self) -> int:
        return parse("objective", self.objective)().num_particles

    def vae(self) -> VAE:
        torch.manual_seed(0)
        return build(
            Spec(self.shape, self.latent_dim, network=self.network, guide=self.guide)
        ).to(self.device)

    def batches(self) -> Callable[[], Tensor]:
        torch.manual_seed(1)
        data = (
            torch.rand(BATCHES, self.batch_size, *self.shape, device=self.device) < 0.13
        ).float()
        return partial(next, itertools.cycle(data))


def ours(setting: Setting, *, compile: bool) -> Step:
    """`pyro_vae.SVI`."""
    vae, batch = setting.vae(), setting.batches()
    svi = SVI(
        vae.model,
        vae.guide,
        ADAM,
        parse("objective", setting.objective)(),
        reduction="mean",
        compile=compile,
    )
    return lambda: svi.step(batch())


def plain_networks(setting: Setting) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of an MLP as anybody would write them."""
    pixels, d = math.prod(setting.shape), setting.latent_dim
    torch.manual_seed(0)
    encoder, decoder = (
        nn.Sequential(
            nn.Linear(i, 200),
            nn.Tanh(),
            nn.Linear(200, 200),
            nn.Tanh(),
            nn.Linear(200, o),
        )
        for i, o in ((pixels, 2 * d), (d, pixels))
    )
    return encoder.to(setting.device), decoder.to(setting.device)


def by_hand(setting: Setting, *, compile: bool) -> Step:
    """PyTorch without Pyro, the loss written out; the networks and the flow, if they are not plain, are ours."""
    batch, k = setting.batches(), setting.particles
    plain = setting.network == MLP and setting.guide == "meanfield"
    vae = None if plain else setting.vae()
    encoder, decoder = (
        plain_networks(setting) if vae is None else (vae.guide, vae.model.decoder)
    )

    def loss_of(x: Tensor) -> Tensor:
        if vae is None or setting.guide == "meanfield":
            outputs = (
                encoder(x.flatten(1))
                if vae is None
                else vae.guide.head(vae.guide.encoder(x))
            )
            loc, log_scale = outputs.chunk(2, -1)
            noise = torch.randn(k, *loc.shape, device=loc.device)
            z = loc + log_scale.exp() * noise
            log_q = -0.5 * noise.square().sum(-1) - log_scale.sum(-1)
        else:
            q = vae.encode(x)
            z = q.rsample((k,))
            log_q = q.log_prob(z) + 0.5 * math.log(2 * math.pi) * z.shape[-1]
        logits = decoder(z).flatten(2)
        bits = x.flatten(1).expand(k, -1, -1)
        log_px = -binary_cross_entropy_with_logits(logits, bits, reduction="none").sum(
            -1
        )
        log_w = log_px - 0.5 * z.square().sum(-1) - log_q
        bound = (
            log_w.logsumexp(0) - math.log(k)
            if setting.objective.startswith("iwae")
            else log_w.mean(0)
        )
        return -bound.mean()

    run = torch.compile(loss_of, dynamic=False) if compile else loss_of
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = ADAM(parameters)

    def step() -> None:
        optimizer.zero_grad()
        run(batch()).backward()
        optimizer.step()

    return step


def pyro_svi(setting: Setting, *, jit: bool = False) -> Step | None:
    """`pyro.infer.SVI`, the pair written as in Pyro's own example of a VAE, validation off."""
    if (
        setting.network != MLP
        or setting.guide != "meanfield"
        or setting.objective != "elbo"
    ):
        return None
    encoder, decoder = plain_networks(setting)
    name, d, batch = (
        f"{setting.name}{setting.batch_size}{jit}",
        setting.latent_dim,
        setting.batches(),
    )

    def model(x: Tensor) -> None:
        pyro.module(f"decoder {name}", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample(
                "z",
                dist.Normal(x.new_zeros(len(x), d), x.new_ones(len(x), d)).to_event(1),
            )
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module(f"encoder {name}", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    loss = JitTrace_ELBO(ignore_jit_warnings=True) if jit else Trace_ELBO()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)

    def step() -> None:
        with pyro.validation_enabled(False):
            svi.step(batch().flatten(1))

    return step


def library(name: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """`a @ b + bias` by oneDNN as it comes, `a @ b` by our graphs' kernels; `None` where PyTorch's own are taken."""
    if usual_products() != "onednn":
        return None
    if name == "oneDNN":
        return by_onednn
    if not has_kernels():
        return None
    # Our graphs add the bias later.
    return lambda a, b, bias: torch.ops.pyro_vae.product(a, b)


def products(setting: Setting, *, by: str = "") -> Step | None:
    """The matrix products and convolutions of our step alone, forward and backward: what no engine can avoid.

    By PyTorch, or the products in float32 on a CPU by the library of that name.
    """
    multiply = library(by) if by and setting.device == "cpu" else None
    if by and multiply is None:
        return None
    vae, x = setting.vae(), setting.batches()()
    svi = SVI(
        vae.model,
        vae.guide,
        ADAM,
        parse("objective", setting.objective)(),
        reduction="mean",
    )
    svi.step(x)
    graph = trace(
        svi._differentiate, [*vae.parameters(), *vae.buffers()], [x], ((x,), {})
    )
    work: list[Any] = []

    class Recorder(Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            name = str(target).removesuffix(".default")
            if multiply is not None and name in ("aten.mm", "aten.addmm"):
                *bias, a, b = args
                work.append(partial(multiply, a, b, *(bias or [None])))
            elif name in PRODUCTS:
                work.append(partial(target, *args, **kwargs))
            return super().call_function(target, args, kwargs)

    with torch.no_grad():
        Recorder(graph.module).run(*graph.inputs)
    return torch.no_grad()(lambda: [product() for product in work])


def numpyro(setting: Setting) -> Step | None:
    """NumPyro's SVI with a whole pass over the batches in one jitted loop; counted as that many steps."""
    if (
        setting.guide != "meanfield"
        or setting.objective != "elbo"
        or setting.network != MLP
    ):
        return None
    try:
        import jax
        import jax.numpy as jnp
        import numpyro as npy
        import numpyro.distributions as npdist
    except ImportError:
        return None
    sizes = {"encoder": (math.prod(setting.shape), 200, 200, 2 * setting.latent_dim)}
    sizes["decoder"] = (setting.latent_dim, 200, 200, math.prod(setting.shape))

    def network(name: str, x: Any) -> Any:
        widths = sizes[name]
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            start = partial(jax.random.normal, jax.random.key(i), (fan_in, fan_out))
            w = npy.param(
                f"{name}{i}w", lambda key, s=start, n=fan_in: s() / math.sqrt(n)
            )
            b = npy.param(f"{name}{i}b", jnp.zeros(fan_out))
            x = x @ w + b
            x = jnp.tanh(x) if i < len(widths) - 2 else x
        return x

    def model(x: Any) -> None:
        with npy.plate("data", len(x)):
            z = npy.sample(
                "z", npdist.Normal(jnp.zeros(setting.latent_dim), 1).to_event(1)
            )
            npy.sample(
                "x", npdist.Bernoulli(logits=network("decoder", z)).to_event(1), obs=x
            )

    def guide(x: Any) -> None:
        with npy.plate("data", len(x)):
            loc, log_scale = jnp.split(network("encoder", x), 2, -1)
            npy.sample("z", npdist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = npy.infer.SVI(model, guide, npy.optim.Adam(1e-3), npy.infer.Trace_ELBO())
    batch = setting.batches()
    data = jnp.asarray(
        torch.stack([batch().flatten(1) for _ in range(BATCHES)]).cpu().numpy()
    )
    state = svi.init(jax.random.key(0), data[0])

    @jax.jit
    def epoch(state: Any) -> Any:
        return jax.lax.fori_loop(
            0, BATCHES, lambda i, s: svi.update(s, data[i])[0], state
        )

    def step() -> None:
        nonlocal state
        state = jax.block_until_ready(epoch(state))

    step.steps = BATCHES  # type: ignore[attr-defined]
    return step
