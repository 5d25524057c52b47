"""Named sets, folders, Parquet files and arrays: samples with names and keys."""

from fisherscope.data.bundled import list_bundled, load_bundled
from fisherscope.data.load import has_samples, load_samples
from fisherscope.data.named import list_sets
from fisherscope.data.samples import ReadOptions, Samples, require_shape

__all__ = [
    "ReadOptions",
    "Samples",
    "has_samples",
    "list_bundled",
    "list_sets",
    "load_bundled",
    "load_samples",
    "require_shape",
]
