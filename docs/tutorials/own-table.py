# %% [markdown]
# # A table of your own
#
# Columns of different kinds, cells that are missing, rows that are odd: from a DataFrame to a model of it, to
# a list of anomalies, and to a table without holes.
#
# ## The table
#
# Flats, made here so that the truth is known. The rent follows from the area, the price of a square metre in
# the district, and the age; a tenth of all cells is then taken away.

# %%
import numpy as np
import pandas
import torch

import pyro_vae as pv

rng = np.random.default_rng(0)
count = 1500
district = rng.choice(
    ["centre", "north", "harbour"], count, p=[0.3, 0.4, 0.3]
)
price = pandas.Series({"centre": 19.0, "north": 11.0, "harbour": 14.0})
area = np.exp(rng.normal(4.2, 0.35, count))
built = rng.normal(1970, 20, count) + 25 * (district == "harbour")
rent = area * price[district].to_numpy() * np.exp(0.004 * (built - 1970))
flats = pandas.DataFrame(
    {
        "district": district,
        "area": area.round(1),
        "rooms": 1 + rng.poisson(area / 30),
        "built": built.round(1),
        "lift": np.where(
            rng.random(count) < (built > 1975) * 0.7 + 0.1, "yes", "no"
        ),
        "rent": (rent * np.exp(rng.normal(0, 0.08, count))).round(2),
    }
)
whole = flats.copy()
holes = rng.random(flats.shape) < 0.1
flats = flats.astype({"rooms": "Int64"}).mask(holes)
flats.head()

# %% [markdown]
# ## Each column its own likelihood
#
# `Table` chooses by what a column holds and says why. What is not right is changed by name: rooms count.

# %%
table = pv.Table(flats, "columns, rooms=poisson", missing=True)
print(table)

# %% [markdown]
# The density of a row is then $p(x|z) = \prod_j p_j(x_j|z)$, and a missing cell is left out of the product,
# which integrates over it: $\log p(x)$ of such a row is $\log p(x_\text{seen})$ ([missing
# values](../missing.md)).
#
# ## Training
#
# 1,000 rows to train on, 200 to choose the epoch and to set a threshold with, 300 to look at.

# %%
train, known, new = table.x[:1000], table.x[1000:1200], table.x[1200:]
torch.manual_seed(0)
spec = pv.Spec(
    table.shape,
    latent_dim=3,
    likelihood=table.likelihood,
    network="mlp(hidden=(64,))",
    missing=True,
)
vae = pv.build(spec)
history = pv.fit(
    vae,
    train,
    epochs=60,
    batch_size=50,
    learning_rate=3e-3,
    validation=known,
    keep="best",
    progress=False,
)
pv.plots.draw_training(history)

# %% [markdown]
# Has it learned the columns? Draws from the model beside the data, one column at a time, and those two by two
# that hang together most:

# %%
tables = [new.numpy(), vae.sample(500).numpy()]
names = ["data", "draws from the model"]
columns = table.schema.columns
pv.plots.table_marginals(columns, tables, names)

# %%
pv.plots.table_pairs(columns, tables, names)

# %% [markdown]
# ## Anomalies
#
# Into the new rows we put fifteen flats whose rent is a third of what it was: each rent is possible, but not
# for such a flat. The score of a row is $-\log p(x)$, and the threshold is the value that one in twenty of
# the known rows exceeds ([how it is set](../faq.md#which-rows-of-my-file-are-anomalies)): so many of ordinary
# rows are false alarms.

# %%
from pyro_vae.evaluation.anomalies import threshold

rents = list(flats.columns).index("rent")
full = (~holes[1200:]).all(1).nonzero()[0]  # rows without a hole
odd = full[:15]
strange = new.clone()
strange[odd, rents] /= 3


def score(x):
    return -pv.log_marginal(vae, x, num_particles=500, seed=0).values


found = threshold(score(known), score(strange), rate=0.05, score="-log p(x)")
ordinary = np.setdiff1d(np.arange(len(new)), odd)
caught = int(found.flagged[odd].sum())
alarms = found.flagged[ordinary].double().mean().item()
print(
    f"caught: {caught} of 15; false alarms: {100 * alarms:.1f} % of the others"
)
pv.plots.histogram(found.scores, "-log p(x), nats", limit=found.value)

# %% [markdown]
# Why is a row odd? The same draws say how improbable each cell is given the rest of its row, $-\log
# p(x_j|x_\text{others})$. Beside the mean of that column over ordinary rows:

# %%
cells = pv.by_column(vae, strange[full], draws=500).surprise
usual = cells[15:].mean(0)
first = pandas.DataFrame(
    {"row": cells[0], "usual": usual}, index=flats.columns
)
blamed = flats.columns[(cells - usual)[:15].argmax(1).numpy()]
print(pandas.Series(blamed).value_counts().to_string(), "\n")
first.round(2)

# %% [markdown]
# ## Filling holes
#
# `imputations` gives the mean of each missing cell given those seen, and draws of all missing cells of a row
# together. In the units of the table again:

# %%
torch.manual_seed(0)
filled = pv.imputations(vae, new, draws=100)
completed = table.frame(filled.point, index=flats.index[1200:])
gap = holes[1200:].any(1)
side = pandas.concat(
    {"with holes": flats[1200:], "completed": completed.round(1)}, axis=1
)
side[gap].head(4).T

# %% [markdown]
# A mean is a guess; the draws say how sure it is. Nine of ten hidden rents should lie between the 5 % and the
# 95 % quantile of their draws. The logarithm of the rent is off by so much, beside what the mean of the
# column would be:

# %%
hidden = holes[1200:, rents]
truth = whole["rent"].to_numpy()[1200:][hidden]
draws = filled.draws[:, hidden, rents].numpy()
low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95], axis=0)
covered = ((low <= truth) & (truth <= high)).mean()
error = np.sqrt(np.mean(np.log(middle / truth) ** 2))
trivial = np.log(truth).std()
print(
    f"{hidden.sum()} hidden rents, within their 90 % intervals: {100 * covered:.0f} %"
)
print(
    f"RMSE of log rent {error:.2f}, by the mean of the column {trivial:.2f}"
)

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(5, 4), dpi=120, layout="constrained")
bars = np.abs(np.stack([low, high]) - middle)
axes.errorbar(truth, middle, bars, fmt="o", markersize=4, linewidth=1)
axes.plot([300, 3000], [300, 3000], color="grey", linestyle="--")
axes.set(
    xscale="log", yscale="log", xlabel="hidden rent", ylabel="median and 90 %"
)
plt.show()

# %% [markdown]
# The intervals are rather too wide than too narrow. The widest belong to flats whose area is missing too.
# Statistics of a completed table should be taken over the draws, each a whole table, and not over the means,
# which vary too little.
#
# ## Further
#
# - From a file: `python -m pyro_vae.train --dataset flats.csv --likelihood columns --missing keep`, then
#   `evaluate --ask anomalies` and `impute`. See [Tables](../tables.md).
# - In a pipeline: [scikit-learn](../scikit-learn.md).

# %% tags=["hidden"]
# What the text claims.
assert caught >= 12
assert alarms < 0.12
assert (blamed == "rent").sum() + (blamed == "area").sum() >= 11
assert 0.7 < covered <= 1
assert error < 0.85 * trivial
spread = np.log(high / low)
no_area = holes[1200:][hidden][:, list(flats.columns).index("area")]
assert not no_area.any() or spread[no_area].mean() > spread[~no_area].mean()
seen = ~holes[1200:]
assert np.allclose(filled.draws[0].numpy()[seen], new.numpy()[seen])
