from __future__ import annotations

import numpy as np
import pytest

from fisherscope.data.patches import cut_patches


def covered(photo, split):
    seen = np.zeros(photo.shape[1:], int)
    for patch in cut_patches(photo, split):
        r, c = int(patch.name[1:5]), int(patch.name[7:])
        assert np.array_equal(patch.pixels, photo[:, r : r + 16, c : c + 16])
        assert patch.block == f"{r // 64}-{c // 64}"
        seen[r : r + 16, c : c + 16] += 1
    return seen


@pytest.mark.parametrize("shape", [(1, 130, 200), (3, 64, 128), (1, 63, 500)])
def test_train_and_test_share_no_pixel_and_fill_all_whole_blocks(shape):
    photo = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    train, test = covered(photo, "train"), covered(photo, "test")
    assert not ((train > 0) & (test > 0)).any()
    rows, columns = shape[1] // 64 * 64, shape[2] // 64 * 64
    assert ((train + test)[:rows, :columns] > 0).all()
    assert (train + test)[rows:].sum() == (train + test)[:, columns:].sum() == 0
    assert test.max(initial=0) <= 1


def test_counts_of_a_chessboard():
    photo = np.zeros((1, 128, 192), np.uint8)
    assert len(list(cut_patches(photo, "train"))) == 3 * 49
    assert len(list(cut_patches(photo, "test"))) == 3 * 16
