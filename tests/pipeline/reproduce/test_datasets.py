"""Statistics of data sets: those of bundled ones by hand, traces of JPEG on images that were or were not compressed."""

import io

import numpy as np
import pytest
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.data import load_samples
from fisherscope.pipeline.reproduce import context
from fisherscope.pipeline.reproduce.image_statistics import block_excess, fine_detail


def test_the_numbers(tiny, tmp_path):
    written = tiny("figure-datasets", {"in_dist": ("digits", "faces", "missing")}, limit=100, options={"shown": 4})
    results = written["results"]
    assert [entry["set"] for entry in results["sets"]] == ["digits", "faces"]
    assert written["skipped"] == {"set missing": "not in the data root and not bundled"}
    for entry in results["sets"]:
        test, train = (load_samples(entry["set"], split=split, limit=100).x for split in ("test", "train"))
        assert entry["sizes"] == {"train": len(train), "test": len(test)}
        assert entry["cut_off"] == [n for n, x in (("train", train), ("test", test)) if len(x) == 100]
        images = [x.tobytes() for x in (*train, *test)]
        assert entry["duplicates"] == len(images) - len(set(images))
        assert entry["test_in_train"] == sum(x in set(images[: len(train)]) for x in images[len(train) :])
        assert entry["levels"]["mean"] == pytest.approx(test.mean())
        assert entry["levels"]["saturated"] == pytest.approx(np.isin(test, [0, 255]).mean())
        counts = np.histogram(test, results["level_edges"])[0]
        assert entry["histogram"] == pytest.approx(100 * counts / test.size)
    table = (tmp_path / "figure-datasets" / "statistics.md").read_text()
    assert "| digits | 8x8 grey | ≥ 100 | ≥ 100 |" in table
    assert written["figures"] == ["colour-images", "colour-levels"]
    without = tiny("figure-datasets", {"in_dist": ("digits",)}, limit=100, options={"shown": 0})
    assert without["figures"] == ["colour-levels"]


def test_a_set_without_a_train_split_shows_its_test_split(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "half" / "test"
    folder.mkdir(parents=True)
    for i, image in enumerate(load_samples("digits", limit=10).x[:, 0]):
        Image.fromarray(image).save(folder / f"{i}.png")
    read = context.load_samples

    def only_test(name, *, default_split, **how):
        if name.endswith("half") and default_split == "train":
            raise DataError("no split 'train'")
        return read(name, default_split=default_split, **how)

    monkeypatch.setattr(context, "load_samples", only_test)
    written = tiny("figure-datasets", {"in_dist": (str(tmp_path / "half"),)}, limit=100)
    (entry,) = written["results"]["sets"]
    assert entry["sizes"] == {"test": 10} and entry["test_in_train"] is None
    assert written["skipped"] == {f"{tmp_path / 'half'}[train]": "no split 'train'"}
    assert "| - | 10 |" in (tmp_path / "figure-datasets" / "statistics.md").read_text()


def test_duplicates_among_some_of_the_images_are_a_lower_bound(tiny, tmp_path):
    digits = load_samples("digits", limit=30).x[:, 0]
    for split, images in (("train", digits), ("test", digits[:10])):
        (tmp_path / "twice" / split).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "twice" / split / f"{i:02}.png")
    spec = str(tmp_path / "twice")
    whole = tiny("figure-datasets", {"in_dist": (spec,)}, limit=50, options={"shown": 0})
    assert whole["results"]["sets"][0]["duplicates"] == 10 and "among the images taken" not in whole["note"]
    some = tiny("figure-datasets", {"in_dist": (spec,)}, limit=8, options={"shown": 0})
    assert some["results"]["sets"][0]["duplicates"] < 10
    assert "not all were, which hides some" in some["note"]
    assert "is cut off may have more (≥)" in some["captions"]["statistics"]
    row = (tmp_path / "figure-datasets" / "statistics.md").read_text().splitlines()[-1]
    assert row.split(" | ")[4].startswith("≥ ")


def photographs(n=300, size=32):
    """Smooth colour images with grain."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 40, (n, 3, size // 4 + 1, size // 4 + 1)).cumsum(2).cumsum(3)
    at = np.arange(size) // 4
    smooth = coarse[:, :, at][:, :, :, at]
    kernel = np.ones(5) / 5
    for axis in (2, 3):
        smooth = np.apply_along_axis(np.convolve, axis, smooth, kernel, "same")
    return np.clip(128 + smooth / 4 + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def compressed(x, quality):
    def one(image):
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer)).transpose(2, 0, 1)

    return np.stack([one(image) for image in x])


def test_jpeg_leaves_block_borders_and_takes_the_detail_of_colour():
    x = photographs()
    jpeg = compressed(x, 40)
    before, after = block_excess(x), block_excess(jpeg)
    assert abs(before["excess"]) < 4 * before["standard_error"]
    assert after["excess"] > 10 * after["standard_error"] and after["excess"] == max(after["phases"])
    detail = [fine_detail(images) for images in (x, jpeg)]
    ratio = [d["chroma"] / d["luma"] for d in detail]
    assert ratio[1] < ratio[0] / 2


def test_block_excess_by_hand():
    """A ramp with one step at the border of a block."""
    x = np.tile(np.arange(16) + 8 * (np.arange(16) >= 8), (1, 1, 16, 1)).astype(np.uint8)
    # |differences| along a row are 1 but 9 at the border, along a column 0; two directions with one border each.
    expected = 8 / 2
    level = ((15 + 8) / 15 + 0) / 2
    found = block_excess(x)
    assert found["excess"] == pytest.approx(100 * expected / level)
    assert [found["phases"][1], found["phases"][7]] == pytest.approx([-100 * 4 / 2 / level] * 2)


def test_images_without_block_borders_or_colour():
    digits = load_samples("digits", limit=20).x
    assert block_excess(digits) is None and block_excess(np.zeros((3, 1, 16, 16), np.uint8)) is None
    assert fine_detail(digits)["chroma"] is None and fine_detail(digits)["luma"] > 0
    assert fine_detail(np.zeros((3, 3, 8, 8), np.uint8)) == {"luma": None, "chroma": None}
