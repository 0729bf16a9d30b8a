# %% [markdown]
# # A first VAE
#
# From the formula to a trained model of handwritten digits, the number that says how good it is, and its
# pictures.
#
# ## The bound
#
# A VAE explains a datum $x$ by a few numbers $z$ that nobody has seen: a model $p(z)\,p(x|z)$, in which a
# network, the *decoder*, computes the parameters of $p(x|z)$. How probable the model finds $x$ is an integral
# over all $z$, which no formula gives. With any density $q(z|x)$, the *guide*, whose parameters an *encoder*
# computes:
#
# $$
# \begin{aligned}
# \log p(x) &= \log \int p(z)\,p(x|z)\,dz
#            = \log \mathbb{E}_{q(z|x)}\!\left[\frac{p(z)\,p(x|z)}{q(z|x)}\right] \\
#           &\ge \mathbb{E}_{q(z|x)}\!\left[\log \frac{p(z)\,p(x|z)}{q(z|x)}\right]
#            = \underbrace{\mathbb{E}_{q(z|x)}[\log p(x|z)]}_{\text{reconstruction}}
#            - \underbrace{\mathrm{KL}(q(z|x)\,\|\,p(z))}_{\text{KL}} \;=\; \mathrm{ELBO}(x) \\
#           &= \mathrm{ELBO}(x) + \mathrm{KL}(q(z|x)\,\|\,p(z|x)).
# \end{aligned}
# $$
#
# The second line is Jensen's inequality, the third says what it loses: the guide's distance from the true
# posterior. Model and guide are trained together to make the ELBO, which one draw of $z$ estimates, as large
# as possible. [Concepts](../concepts.md) has all of it in Pyro.
#
# ## Data
#
# The digits of scikit-learn, 8×8 pixels from 0 to 16. Above 7 is ink: then a pixel is a bit, and $p(x|z)$ a
# product of Bernoulli distributions.

# %%
import torch

import pyro_vae as pv

digits = pv.load_data("digits")
splits = ("train", "validation", "test")
train, validation, test = (
    (digits.values[name] > 7).float() for name in splits
)
digits

# %% [markdown]
# ## Model and training
#
# Two latents, so that they can be drawn. `build` makes the pair of a model and a guide from the names of its
# parts; each part is [swapped](../swapping.md) by another name.

# %%
torch.manual_seed(0)
vae = pv.build(pv.Spec((8, 8), latent_dim=2, network="mlp(hidden=(200,))"))
vae

# %% [markdown]
# Validation data, which are not trained on, choose the epoch whose weights are kept.

# %%
history = pv.fit(
    vae,
    train,
    epochs=120,
    learning_rate=2e-3,
    validation=validation,
    keep="best",
    progress=False,
)
pv.plots.draw_training(history)

# %% [markdown]
# Reconstruction and KL rise together: the longer it trains, the more the code tells of the image. The curve
# of the validation data bends first. What training gains from there on it learns by heart.
#
# ## The number
#
# The ELBO is too low by an unknown amount. Averaging K draws *inside* the logarithm gives a better estimate,
# $\log p(x) \approx \log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k|x)}$, for each image of the test data:

# %%
found = pv.log_marginal(vae, test, num_particles=1000, seed=0)
found

# %% [markdown]
# - The **mean** is in nats per image: of 64 fair coins each image would have $-64 \log 2 = -44.4$.
# - **± data**: how far the mean would move with other test images. It shrinks with their number alone.
# - **± Monte Carlo**: how far it would move with other draws. It shrinks with K.
# - **Pareto k** says whether the second error can be believed. Above 0.7 a few draws carry the whole weight
#   of an image; the estimate is then too low, and its error too small. The warning counts such images.
#
# The guide is a Gaussian with independent entries, and the posterior of some images is none.
# `log_marginal_adaptive` spends more draws, on Gaussians fitted to the posterior of each image, just where
# they are needed:

# %%
better, effort = pv.log_marginal_adaptive(vae, test[:40], num_particles=1000)
better

# %% [markdown]
# ### Is it right?
#
# With two latents the integral can be done by brute force, a sum over a fine grid of the plane. That is the
# truth to hold both estimates against:

# %%
axis = torch.linspace(-5, 5, 201, dtype=torch.float64)
grid = torch.cartesian_prod(axis, axis)
log_area = 2 * (axis[1] - axis[0]).log()
with torch.no_grad():
    decoded = vae.decode(grid[:, None].float())  # p(x|z) at each point
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid).sum(1)
    log_joint = decoded.log_prob(test[:40]).double() + log_prior[:, None]
truth = log_joint.logsumexp(0) + log_area  # log p(x) of each image

for name, values in {
    "ELBO": found.elbo[:40],
    "weighted": found.values[:40],
    "adaptive": better.values,
    "quadrature": truth,
}.items():
    error = values - truth
    print(
        f"{name:10}  mean {values.mean():8.3f}  worst error {error.abs().max():6.3f}"
    )

# %% [markdown]
# The ELBO is about half a nat too low, plain weights fail for single images, and the adaptive estimate agrees
# with the sum over the grid. [How to judge a VAE](../evaluation.md) goes on from here, to latents too many
# for a grid.
#
# ## The plane of latents
#
# Each test image at the mean of its $q(z|x)$, coloured by its digit, which the model has never been told:

# %%
pv.plots.draw_codes(vae, digits.labels["test"], test)

# %% [markdown]
# What the decoder makes of points at even quantiles of the prior:

# %%
pv.plots.manifold(vae)[0]

# %% [markdown]
# ## Samples
#
# Draw $z$ from the prior and decode it. The pictures show the mean of $p(x|z)$, a probability of ink for each
# pixel:

# %%
pv.plots.draw_samples(vae, test)

# %% [markdown]
# Some lie between two digits: the prior has mass where no data are. And what was seen, beside what is made of
# its code again:

# %%
pv.plots.draw_reconstructions(vae, test)

# %% [markdown]
# ## Further
#
# - More latents: change `latent_dim` to 10, and log p(x) rises; then there is no grid to check it, but the
#   errors stay.
# - Another guide in one word, `Spec(..., guide="fullrank")`: see [A guide of your own](own-guide.md).
# - The same from a shell: `python -m pyro_vae.train --likelihood bernoulli`, then `evaluate` and `sample`.

# %% tags=["hidden"]
# What the text claims.
assert 0.2 < (truth - found.elbo[:40]).mean() < 1.2
assert -25 < found.mean < -17
assert (found.pareto_k > 0.7).any()
assert (better.values - truth).abs().mean() < 0.05
assert (better.values - truth).abs().max() < (
    found.values[:40] - truth
).abs().max()
assert history[-1].kl > history[0].kl
assert history[-1].reconstruction > history[0].reconstruction
assert (
    history[-1].elbo > history.best.elbo - 0.5 > history.best.validation_elbo
)
