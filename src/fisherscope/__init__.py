"""Which inputs has a deep generative model never learnt? Novelty from gradients in parameter space."""

__version__ = "0.1.0"
