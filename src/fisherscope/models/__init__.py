"""Generative models behind one contract, their noise, checkpoints and training."""
