"""The training loop: one for every family.

Everything random is a function of the seed and the step (the order of samples, the noise), so a resumed run on a
CPU continues exactly where the interrupted one stopped, and several processes train the model that one would.
"""

from fisherscope.models.training.files import read_metrics
from fisherscope.models.training.loop import bits_per_dim, train
from fisherscope.models.training.settings import Progress, TrainingSet, TrainSettings

__all__ = ["Progress", "TrainSettings", "TrainingSet", "bits_per_dim", "read_metrics", "train"]
