from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.data.images import decode_images, resize_array


def decode(*paths, resize=None):
    return decode_images([(p.name, p) for p in paths], len(paths), resize)


def test_grey_and_rgb_pixels_arrive_unchanged(save_image):
    colour = save_image("a.png", "RGB")
    grey = save_image("b.png", "L")
    assert np.array_equal(decode(colour)[0], np.asarray(Image.open(colour)).transpose(2, 0, 1))
    assert np.array_equal(decode(grey)[0, 0], np.asarray(Image.open(grey)))
    assert decode(colour).shape == (1, 3, 6, 8)
    assert decode(colour).dtype == np.uint8


def test_bytes_and_paths_give_the_same(save_image):
    path = save_image("a.png")
    assert np.array_equal(decode_images([("a", path.read_bytes())], 1), decode(path))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
def test_other_modes_are_refused_by_name_and_converted_on_request(save_image, mode):
    path = save_image("odd.png", mode)
    with pytest.raises(DataError, match=rf"odd.png has mode {mode}, expected L .* --resize"):
        decode(path)
    assert decode(path, resize=(3, 6, 8)).shape == (1, 3, 6, 8)


def test_cmyk_is_refused(save_image):
    with pytest.raises(DataError, match="mode CMYK"):
        decode(save_image("print.jpg", "CMYK"))


def test_16_bit_grey_keeps_its_upper_bits_on_request(save_image):
    path = save_image("deep.png", "I;16")
    assert np.array_equal(decode(path, resize=(1, 6, 8))[0, 0], np.asarray(Image.open(path)) >> 8)


def test_16_bit_negatives_are_turned(tmp_path):
    levels = (np.arange(16, dtype=np.uint16) * 4000).reshape(4, 4)
    Image.fromarray(levels).save(tmp_path / "n.tif", tiffinfo={262: 0})  # white is zero
    assert np.array_equal(decode(tmp_path / "n.tif", resize=(1, 4, 4))[0, 0], (0xFFFF - levels) >> 8)


def test_floating_grey_has_no_known_scale(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="mode F, whose scale is unknown"):
        decode(tmp_path / "f.tif", resize=(1, 4, 4))


def test_transparent_pixels_lie_over_white(tmp_path):
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", resize=(1, 4, 4)) == 255).all()


@pytest.mark.parametrize(("mode", "size", "words"), [("RGB", (9, 6), "6x9 RGB"), ("L", (8, 6), "6x8 grey")])
def test_first_deviating_image_is_named_with_both_shapes(save_image, mode, size, words):
    files = [save_image("a.png"), save_image("b.png"), save_image("c.png", mode, size), save_image("d.png", "L")]
    with pytest.raises(DataError, match=f"^c.png is {words} but a.png is 6x8 RGB; .*--resize"):
        decode(*files)


@pytest.mark.parametrize("keep", [0, 20, 60, -40])
def test_truncated_file_is_named(save_image, keep):
    path = save_image("broken.png", size=(40, 40))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"broken\.png is corrupt or not an image"):
        decode(path)


def test_all_that_cannot_be_used_are_named_together(save_image):
    good = [save_image(f"{i}.png") for i in range(3)]
    broken = [save_image(f"broken{i}.png") for i in range(12)]
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"^broken0\.png is corrupt .*; nor can these be used: other\.png, broken1\.png$"
    ):
        decode(good[0], broken[0], save_image("other.png", "L"), good[1], broken[1], good[2])
    with pytest.raises(DataError, match=r"^broken0\.png is corrupt .* broken9\.png; there may be more$"):
        decode(*broken, *good)


def test_flipped_bytes_are_corrupt(save_image):
    path = save_image("broken.png", size=(40, 40))
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png is corrupt"):
        decode(path)


def test_other_decoders_are_never_tried(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "picture.gif")
    (tmp_path / "picture.gif").rename(tmp_path / "picture.png")
    with pytest.raises(DataError, match=r"picture\.png is corrupt or not an image"):
        decode(tmp_path / "picture.png")


def test_decompression_bombs_are_refused(save_image, monkeypatch):
    path = save_image("bomb.png", size=(40, 40))
    for limit in (1000, 100):  # above the limit Pillow warns, above twice the limit it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"bomb\.png unpacks to a suspicious size"):
            decode(path)


def test_a_file_of_several_images_is_refused(tmp_path):
    pages = [Image.new("L", (4, 4), i) for i in range(2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"pages.tif holds 2 images"):
        decode(tmp_path / "pages.tif")


def test_the_first_picture_of_a_camera_pair_is_taken(tmp_path):
    pair = [Image.new("RGB", (16, 16), (100, 100, 100)), Image.new("RGB", (16, 16))]
    pair[0].save(tmp_path / "pair.jpg", "MPO", save_all=True, append_images=pair[1:])
    assert np.abs(decode(tmp_path / "pair.jpg").astype(int) - 100).max() <= 1


def test_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "turned.png")[0, 0], np.rot90(pixels, -1))


def test_resize_crops_the_centre_before_it_resamples():
    x = np.zeros((1, 1, 4, 12), np.uint8)
    x[..., 4:8] = 200
    assert (resize_array(x, (1, 4, 4)) == 200).all()


def test_resize_averages_when_it_shrinks():
    checks = (np.indices((32, 32)).sum(axis=0) % 2 * 200).astype(np.uint8)
    small = resize_array(checks[None, None], (1, 8, 8))
    assert np.abs(small[0, 0, 1:-1, 1:-1].astype(int) - 100).max() <= 2


def test_grey_is_luma_and_grey_to_colour_repeats():
    red = np.zeros((1, 3, 2, 2), np.uint8)
    red[:, 0] = 255
    assert (resize_array(red, (1, 2, 2)) == 76).all()
    grey = np.array([[[[7, 9]]]], np.uint8)
    assert np.array_equal(resize_array(grey, (3, 1, 2)), np.repeat(grey, 3, axis=1))


def test_resize_to_the_same_shape_changes_nothing(save_image):
    path = save_image("a.png")
    assert np.array_equal(decode(path, resize=(3, 6, 8)), decode(path))


def test_jpeg_is_read(tmp_path):
    flat = Image.new("RGB", (16, 16), (100, 100, 100))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG")
    assert np.abs(decode_images([("j", buffer.getvalue())], 1).astype(int) - 100).max() <= 1
