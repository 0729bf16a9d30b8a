"""The public names: type checkers read them here, and the package, which imports each at its first use."""

from pyro_vae.foundation.abstract import variants as variants
from pyro_vae.foundation.errors import InputError as InputError
from pyro_vae.trained import open_run as open_run
from pyro_vae.tables import Table as Table
from pyro_vae.spec import Spec as Spec, build as build
from pyro_vae.checkpoint import load as load, save as save
from pyro_vae.data import load_data as load_data
from pyro_vae.evaluation.adaptive import log_marginal_adaptive as log_marginal_adaptive
from pyro_vae.evaluation.annealing import (
    annealed_importance_sampling as annealed_importance_sampling,
    bidirectional_monte_carlo as bidirectional_monte_carlo,
)
from pyro_vae.evaluation.by_column import by_column as by_column
from pyro_vae.engine.compiled import CompileWarning as CompileWarning
from pyro_vae.evaluation.question import (
    Answer as Answer,
    Estimate as Estimate,
    PerDatum as PerDatum,
    Question as Question,
)
from pyro_vae.evaluation.imputation import (
    draws_given as draws_given,
    imputations as imputations,
)
from pyro_vae.evaluation.fields import by_field as by_field
from pyro_vae.inference.bounds import elbo as elbo
from pyro_vae.evaluation.weighting import log_marginal as log_marginal
from pyro_vae.inference.fit import fit as fit
from pyro_vae.evaluation.gaps import inference_gaps as inference_gaps
from pyro_vae.models.classes import Classes as Classes
from pyro_vae.models.targets import Targets as Targets
from pyro_vae.models.conditionals import (
    FullRank as FullRank,
    Guide as Guide,
    MeanField as MeanField,
)
from pyro_vae.inference.terms import Terms as Terms, terms as terms
from pyro_vae.data.inputs import DataWarning as DataWarning
from pyro_vae.evaluation.bracket import log_marginal_bracket as log_marginal_bracket
from pyro_vae.evaluation.calibration import (
    simulation_based_calibration as simulation_based_calibration,
)
from pyro_vae.evaluation.latents import latent_health as latent_health
from pyro_vae.inference.objectives import (
    ELBO as ELBO,
    IWAE as IWAE,
    Objective as Objective,
)
from pyro_vae.evaluation.outliers import (
    anomaly_scores as anomaly_scores,
    detection as detection,
)
from pyro_vae.evaluation.posterior import compare_posterior as compare_posterior
from pyro_vae.evaluation.refinement import (
    log_marginal_refined as log_marginal_refined,
    refine as refine,
)
from pyro_vae.inference.svi import SVI as SVI
from pyro_vae.inference.watch import TrainingWarning as TrainingWarning
from pyro_vae.models.likelihoods import (
    Bernoulli as Bernoulli,
    Gaussian as Gaussian,
    Likelihood as Likelihood,
)
from pyro_vae.models.priors import (
    Prior as Prior,
    StandardNormal as StandardNormal,
    VampPrior as VampPrior,
)
from pyro_vae.models.structures import Structure as Structure
from pyro_vae.models.vae import VAE as VAE
from pyro_vae.networks import MLP as MLP, ConvNet as ConvNet, Network as Network
from pyro_vae import (
    guides as guides,
    likelihoods as likelihoods,
    networks as networks,
    objectives as objectives,
    plots as plots,
    priors as priors,
)

__version__: str
