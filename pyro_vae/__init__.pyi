"""The public names: type checkers read them here, and the package, which imports each at its first use."""

from pyro_vae.foundation.abstract import (
    AbstractProgram as AbstractProgram,
    variants as variants,
)
from pyro_vae.foundation.errors import InputError as InputError
from pyro_vae.trained import Run as Run, open_run as open_run
from pyro_vae.tables import Table as Table
from pyro_vae.spec import Spec as Spec, build as build
from pyro_vae.checkpoint import load as load, save as save
from pyro_vae.data import (
    Bridge as Bridge,
    DataSet as DataSet,
    Split as Split,
    load_data as load_data,
)
from pyro_vae.evaluation.adaptive import (
    Effort as Effort,
    log_marginal_adaptive as log_marginal_adaptive,
)
from pyro_vae.evaluation.annealing import (
    AnnealedEstimate as AnnealedEstimate,
    Sandwich as Sandwich,
    annealed_importance_sampling as annealed_importance_sampling,
    bidirectional_monte_carlo as bidirectional_monte_carlo,
)
from pyro_vae.evaluation.by_column import ByColumn as ByColumn, by_column as by_column
from pyro_vae.engine.compiled import CompileWarning as CompileWarning
from pyro_vae.evaluation.diagnostics import pareto_k as pareto_k
from pyro_vae.inference.epochs import History as History
from pyro_vae.evaluation.question import (
    Answer as Answer,
    Estimate as Estimate,
    PerDatum as PerDatum,
    Question as Question,
)
from pyro_vae.evaluation.imputation import (
    Given as Given,
    Imputed as Imputed,
    draws_given as draws_given,
    imputations as imputations,
)
from pyro_vae.evaluation.results import LogMarginal as LogMarginal
from pyro_vae.inference.bounds import elbo as elbo
from pyro_vae.evaluation.weighting import log_marginal as log_marginal
from pyro_vae.inference.fit import fit as fit
from pyro_vae.evaluation.gaps import (
    InferenceGaps as InferenceGaps,
    inference_gaps as inference_gaps,
)
from pyro_vae.models.conditionals import (
    IAF as IAF,
    NSF as NSF,
    Delta as Delta,
    FullRank as FullRank,
    Guide as Guide,
    Householder as Householder,
    Local as Local,
    LowRank as LowRank,
    MeanField as MeanField,
    Mixture as Mixture,
    Planar as Planar,
    SemiAmortized as SemiAmortized,
    Sylvester as Sylvester,
)
from pyro_vae.inference.terms import Terms as Terms, terms as terms
from pyro_vae.data.inputs import DataWarning as DataWarning
from pyro_vae.evaluation.latents import (
    LatentHealth as LatentHealth,
    activity as activity,
    latent_health as latent_health,
)
from pyro_vae.inference.objectives import (
    CIWAE as CIWAE,
    ELBO as ELBO,
    IWAE as IWAE,
    MIWAE as MIWAE,
    PIWAE as PIWAE,
    STL as STL,
    Annealed as Annealed,
    BetaTC as BetaTC,
    Capacity as Capacity,
    DReG as DReG,
    FreeBits as FreeBits,
    InfoVAE as InfoVAE,
    MeanFieldELBO as MeanFieldELBO,
    Objective as Objective,
    Renyi as Renyi,
    ReweightedWakeSleep as ReweightedWakeSleep,
)
from pyro_vae.evaluation.outliers import (
    AnomalyScores as AnomalyScores,
    Detection as Detection,
    Separation as Separation,
    anomaly_scores as anomaly_scores,
    detection as detection,
)
from pyro_vae.evaluation.posterior import (
    PosteriorComparison as PosteriorComparison,
    compare_posterior as compare_posterior,
)
from pyro_vae.evaluation.refinement import (
    log_marginal_refined as log_marginal_refined,
    refine as refine,
)
from pyro_vae.inference.shift import RefinedGuide as RefinedGuide
from pyro_vae.inference.svi import SVI as SVI
from pyro_vae.inference.watch import TrainingWarning as TrainingWarning
from pyro_vae.models import likelihoods as likelihoods, priors as priors
from pyro_vae.models.likelihoods import (
    Bernoulli as Bernoulli,
    Beta as Beta,
    Categorical as Categorical,
    Columns as Columns,
    ContinuousBernoulli as ContinuousBernoulli,
    DiscretizedLogistic as DiscretizedLogistic,
    DiscretizedLogisticMixture as DiscretizedLogisticMixture,
    Gamma as Gamma,
    Gaussian as Gaussian,
    Likelihood as Likelihood,
    LogNormal as LogNormal,
    NegativeBinomial as NegativeBinomial,
    Ordinal as Ordinal,
    Poisson as Poisson,
    SelfMasking as SelfMasking,
    StudentT as StudentT,
    ZeroInflated as ZeroInflated,
)
from pyro_vae.models.priors import (
    Conditional as Conditional,
    Flow as Flow,
    GaussianMixture as GaussianMixture,
    Prior as Prior,
    StandardNormal as StandardNormal,
    VampPrior as VampPrior,
)
from pyro_vae.data.representation import Representation as Representation
from pyro_vae.models.structures import Structure as Structure
from pyro_vae.models.vae import VAE as VAE, Model as Model
from pyro_vae.networks import (
    MLP as MLP,
    ConvNet as ConvNet,
    GatedConv as GatedConv,
    GatedMLP as GatedMLP,
    Linear as Linear,
    Network as Network,
    ResNet as ResNet,
)

from pyro_vae import plots as plots

__version__: str
