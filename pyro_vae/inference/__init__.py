"""How it is inferred: guides, objectives, training, estimators."""
