import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisherscope.core.errors import DataError, SettingError
from fisherscope.evaluation import Protocol, group_indices, join_equal, out_dist_groups, random_parts, split_in_dist


def parts(split):
    return split.fit, split.calibration, split.test


@given(st.integers(40, 400), st.integers(1, 8), st.integers(0, 99))
def test_parts_are_disjoint_and_multiples_of_the_group_size(n, group_size, seed):
    index = parts(split_in_dist(n, group_size, seed))
    joined = np.concatenate(index)
    assert len(set(joined.tolist())) == len(joined)
    assert joined.min() >= 0 and joined.max() < n
    assert all(len(part) % group_size == 0 and len(part) for part in index)
    assert n - len(joined) <= 3 * (group_size - 1)


@given(st.integers(40, 400), st.integers(2, 8), st.integers(0, 99))
def test_group_size_only_truncates_the_parts(n, group_size, seed):
    for single, grouped in zip(
        parts(split_in_dist(n, 1, seed)), parts(split_in_dist(n, group_size, seed)), strict=True
    ):
        np.testing.assert_array_equal(single[: len(grouped)], grouped)
        assert len(single) - len(grouped) < group_size


def test_shares_are_a_half_and_two_quarters():
    assert [len(part) for part in parts(split_in_dist(1000, 1, 0))] == [500, 250, 250]
    assert [len(part) for part in parts(split_in_dist(100, 1, 0, fit=0.29, calibration=0.3))] == [29, 30, 41]


def test_seed_decides_the_split():
    first, again, other = (split_in_dist(200, 1, seed).fit for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first.tolist()) != set(other.tolist())


def test_clusters_stay_in_one_part_and_are_mixed_inside_it():
    clusters = np.repeat([f"track{i}" for i in range(40)], 10)
    split = split_in_dist(400, 5, 0, clusters=clusters)
    owners = [set(clusters[part]) for part in parts(split)]
    assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    assert [len(part) for part in parts(split)] == [200, 100, 100]
    groups = group_indices(split.test, 5)
    assert np.mean([len(set(clusters[group])) for group in groups]) > 3


def test_a_cut_between_clusters_stays_within_its_bounds():
    clusters = np.repeat(["a", "b", "c"], [70, 20, 10])
    for seed in range(20):
        parts = random_parts(100, [50], np.random.default_rng(seed), clusters, within=(10, 80))
        assert 10 <= len(parts[0]) <= 80 and not set(clusters[parts[0]]) & set(clusters[parts[1]])
    with pytest.raises(DataError, match="3 clusters of 100 samples cannot be cut into 2 parts between sample 40 and"):
        random_parts(100, [50], np.random.default_rng(0), clusters, within=(40, 60))


def test_equal_samples_are_one_cluster():
    keys = np.array([7, 3, 7, 5, 3, 9], np.uint64)
    labels = join_equal(None, keys)
    assert [[a == b for b in labels] for a in labels] == [[a == b for b in keys] for a in keys]
    joined = join_equal(["a", "b", "c", "c", "d", "d"], keys)  # a - c by 7, b - d by 3
    assert joined[0] == joined[2] == joined[3] != joined[1] == joined[4] == joined[5]
    groups = join_equal(None, np.array([[1, 2], [3, 4], [5, 1], [6, 6], [4, 5]], np.uint64))
    assert len({groups[i] for i in (0, 1, 2, 4)}) == 1 and groups[3] != groups[0]


def test_what_has_no_equal_samples_is_split_as_given():
    keys, clusters = np.array([4, 2, 8, 2], np.uint64), ["x", "y", "z", "y"]
    assert join_equal(None, keys[:3]) is None
    assert join_equal(None, np.array([[4, 4], [2, 8]], np.uint64)) is None
    assert join_equal(clusters, keys) is clusters
    with pytest.raises(DataError, match="2 cluster labels were given for 4 samples"):
        join_equal(clusters[:2], keys)


def test_groups_are_consecutive_and_drop_the_remainder():
    np.testing.assert_array_equal(group_indices(np.array([7, 3, 9, 1, 4]), 2), [[7, 3], [9, 1]])


def test_out_dist_groups_mix_a_sorted_set():
    groups = out_dist_groups(103, 5, seed=0)
    assert groups.shape == (20, 5)
    assert len(np.unique(groups)) == 100
    labels = np.arange(103) // 26
    assert np.mean([len(set(labels[group])) for group in groups]) > 2
    np.testing.assert_array_equal(groups, out_dist_groups(103, 5, seed=0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: split_in_dist(4, 5, 0), DataError, "group size 5 is larger than the data"),
        (lambda: split_in_dist(16, 5, 0), DataError, "no group of 5 for the calibration part"),
        (lambda: split_in_dist(2, 1, 0), DataError, "no group of 1 for the calibration part"),
        (lambda: split_in_dist(100, 0, 0), SettingError, "group size is 0"),
        (lambda: split_in_dist(100, 1, 0, fit=0.8, calibration=0.2), SettingError, "sum below 1"),
        (
            lambda: split_in_dist(100, 1, 0, clusters=["a"] * 100),
            DataError,
            "1 clusters of 100 samples cannot be cut into 3 parts",
        ),
        (lambda: split_in_dist(100, 1, 0, clusters=["a"] * 3), DataError, "3 cluster labels"),
        (lambda: out_dist_groups(3, 5, 0), DataError, "larger than the data"),
    ],
)
def test_unusable_splits_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


PROTOCOL = Protocol(
    in_dist="cifar10[test]",
    out_dists=("gtsrb[test]", "celeba[test]"),
    n_out=(1000, 2000),
    n_fit=1000,
    n_calibration=500,
    n_test=500,
    group_sizes=(1, 5),
    seed=7,
    training_checked=True,
    clustered=("gtsrb[test]",),
)


def test_statement_names_sets_counts_and_conventions():
    text = PROTOCOL.statement()
    for part in (
        "2,000 samples of cifar10[test]",
        "seed 7",
        "1,000 to fit",
        "500 to calibrate",
        "celeba[test] (2,000)",
    ):
        assert part in text
    for part in ("B = 1 and 5", "OOD is the positive class", "95 % percentile bootstrap", "cluster", "by hash"):
        assert part in text


def test_statement_of_groups_alone_says_that_intervals_of_clusters_are_too_narrow():
    text = replace(PROTOCOL, group_sizes=(5,)).statement()
    assert "Split by cluster" in text and "too narrow" in text and "resampled by cluster" not in text


def test_statement_owns_up_to_unknown_training_samples():
    unchecked = Protocol("a", ("b",), (10,), 4, 2, 2, (1,), 0, training_checked=False)
    assert "NOT checked" in unchecked.statement()
    assert "B = 1" in unchecked.statement() and "cluster" not in unchecked.statement()


def test_protocol_is_json():
    value = json.loads(json.dumps(PROTOCOL.to_json()))
    assert value["statement"] == PROTOCOL.statement()
    assert value["group_sizes"] == [1, 5]


def test_too_few_clusters_are_said_to_be_the_cause():
    with pytest.raises(
        DataError, match=r"100 samples of 3 clusters leave no group of 5 .* give samples of more clusters"
    ):
        split_in_dist(100, 5, 0, clusters=["a"] * 98 + ["b", "c"])
