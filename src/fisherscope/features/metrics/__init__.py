"""Fisher metrics: what is kept of the parameter gradients, and in which metric they are measured."""
