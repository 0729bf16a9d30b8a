"""What is modelled: priors, likelihoods, and the model that joins them."""
