"""Arrays and tensors of every sort, as samples."""

import numpy as np
import pytest
import torch

import fisherscope
from fisherscope.core.errors import DataError
from fisherscope.data import Samples
from fisherscope.evaluation import cluster_sizes
from fisherscope.pipeline.batches import as_batches, require_resolved

ROWS = np.random.default_rng(0).integers(-8, 8, (40, 3)).astype(np.float32) / 4  # exact in 8 bits of mantissa


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (torch.from_numpy(ROWS).bfloat16(), np.float32),
        (torch.from_numpy(ROWS).half(), np.float16),
        (torch.from_numpy(ROWS).requires_grad_(), np.float32),
        (np.ma.asarray(ROWS), np.float32),
        (ROWS.astype(">f4"), np.float32),
        (ROWS.astype(">f8"), np.float64),
        (ROWS.astype(np.longdouble), np.float64),
        (ROWS.astype(np.dtype(np.longdouble).newbyteorder()), np.float64),
    ],
)
def test_the_same_numbers_are_the_same_samples(given, dtype):
    expected = as_batches(ROWS)
    for data in (given, {"rows": given}):
        found = as_batches(data)
        values = found.x["rows"] if isinstance(data, dict) else found.x
        assert values.dtype == dtype and values.dtype.isnative
        np.testing.assert_array_equal(values, ROWS)
    np.testing.assert_array_equal(as_batches(given).keys, expected.keys)


def test_what_torch_cannot_read_itself_is_scored():
    model = torch.nn.Linear(2, 1)

    def log_prob(model, x):
        return -(x[:, 2] - model(x[:, :2])[:, 0]).square()

    guard = fisherscope.fit(model, ROWS, log_prob=log_prob, detector="likelihood", fpr=0.1)
    for other in (ROWS.astype(">f4"), ROWS.astype(np.longdouble), torch.from_numpy(ROWS).bfloat16()):
        np.testing.assert_array_equal(guard.score(other), guard.score(ROWS))


def test_valid_arrays_are_taken_as_they_are():
    for dtype in (np.uint8, np.int64, np.float32, np.float64):
        given = ROWS.astype(dtype)
        assert as_batches(given).x is given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.from_numpy(ROWS).to_sparse(), r"layout torch.sparse_coo, expected a dense one; give x.to_dense\(\)"),
        (torch.from_numpy(ROWS).to_mkldnn(), "layout torch._mkldnn"),
        (torch.from_numpy(ROWS).to(torch.complex64).conj(), "a tensor of torch.complex64, expected real numbers"),
        (np.ma.masked_equal(ROWS, 0.25), r"a masked array, [1-9]\d* of 120 values masked; .*x.filled"),
        (ROWS.astype(complex), "data holds ndarray, expected numeric arrays"),
        (ROWS.tolist(), "data holds float, expected numeric arrays"),
    ],
)
def test_what_is_no_samples_is_one_clear_error(given, message):
    for data in (given, {"rows": given}):
        with pytest.raises(DataError, match=message):
            as_batches(data)


def number_of_clusters(data):
    batches = as_batches(data)
    return len(cluster_sizes(batches.clusters, batches.keys))


def test_equal_samples_link_their_clusters():
    x = np.arange(18.0).reshape(6, 3)
    tracks = ("a", "a", "b", "b", "c", "d")
    data = Samples.from_array(x, [f"{i}" for i in range(6)], "tracks", clusters=tracks)
    assert number_of_clusters(data) == 4 and number_of_clusters(x) == 6
    x[4] = x[0]
    linked = Samples.from_array(x, data.ids, "tracks", clusters=tracks)
    assert number_of_clusters(linked) == 3 and number_of_clusters(x) == 5


def test_columns_of_which_a_dtype_keeps_nothing_are_named():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    rows[:, 2] = 1.7e9 + 10 * rows[:, 2]
    require_resolved(rows, "times", ("a", "b", "t"), torch.float64)
    with pytest.raises(DataError, match=r"the column t holds numbers up to 1\.7e\+09 that vary by .* torch.float32"):
        require_resolved(rows, "times", ("a", "b", "t"), torch.float32)
    rows[:, 2] = 1.7e9  # constant: there is nothing to keep
    require_resolved(rows, "times", None, torch.float32)
