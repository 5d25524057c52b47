"""Copies that lose detail keep their place."""

import numpy as np
import pytest

from fisherscope.core.errors import DataError
from fisherscope.data.controls import blurred, constant_images, jpeg_coded, resampled, white_noise


def ramp(height, width):
    """Return two images that grow brighter along the columns."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return np.broadcast_to(row, (2, 1, height, width)).copy()


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (28, 31)])
@pytest.mark.parametrize("change", [blurred, jpeg_coded, resampled])
def test_a_ramp_stays_where_it_is(change, size):
    images = ramp(*size)
    copies = change(images)
    assert copies.shape == images.shape and copies.dtype == np.uint8
    inner = (copies.astype(int) - images)[..., 4:-4]
    assert abs(inner.mean()) < 1 and np.abs(inner).max() <= 5


def test_resampling_loses_detail():
    noise = white_noise(3, (3, 16, 16), seed=0)
    assert resampled(noise).std() < 0.7 * noise.std()
    flat = constant_images(3, (3, 16, 16), seed=0)
    np.testing.assert_array_equal(resampled(flat), flat)


def test_other_arrays_are_refused():
    with pytest.raises(DataError, match="expected uint8"):
        resampled(np.zeros((2, 3, 8, 8)))
