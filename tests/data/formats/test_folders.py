"""CelebA and GTSRB, on small folders that the tests write."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fisherscope.core.errors import DataError
from fisherscope.data import list_sets, load_samples


def face(seed: int, size: tuple[int, int] = (178, 218)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3)).astype(np.uint8)).resize(size)


@pytest.fixture
def celeba(tmp_path):
    folder = tmp_path / "root" / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for seed, number in enumerate((1, 162770, 162771, 182637, 182638, 202599)):
        face(seed).save(folder / f"{number:06d}.jpg")
    return folder.parent


def test_celeba_is_split_by_its_official_numbers_and_by_its_file(celeba):
    assert list_sets(celeba.parent) == {"celeba": ("test", "train", "val")}
    found = {s: load_samples(f"celeba[{s}]", data_root=celeba.parent).ids for s in ("train", "val", "test")}
    assert found == {
        "train": ("000001.jpg", "162770.jpg"),
        "val": ("162771.jpg", "182637.jpg"),
        "test": ("182638.jpg", "202599.jpg"),
    }
    (celeba / "list_eval_partition.txt").write_text("000001.jpg 2\n162770.jpg 0\n182638.jpg 1\n")
    assert load_samples(celeba).ids == ("000001.jpg",)
    (celeba / "list_eval_partition.txt").write_text("000001.jpg 7\n")
    with pytest.raises(DataError, match=r"list_eval_partition.txt is no partition file"):
        load_samples(celeba)


def test_celeba_is_cropped_as_in_the_paper(celeba):
    samples = load_samples(celeba, split="train")
    file = Image.open(celeba / "img_align_celeba" / "000001.jpg")
    square = Image.fromarray(np.asarray(file)[40:188, 15:163])
    expected = np.moveaxis(np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR)), -1, 0)
    assert samples.shape == (3, 32, 32) and np.array_equal(samples.x[0], expected)
    assert load_samples(celeba, split="train", resize=(1, 16, 16)).shape == (1, 16, 16)


def test_celeba_refuses_other_frames_names_and_broken_files(celeba):
    path = celeba / "img_align_celeba" / "000001.jpg"
    content = path.read_bytes()
    face(0, (89, 109)).save(path)
    with pytest.raises(DataError, match=r"000001.jpg is 89x109, expected the aligned 178x218"):
        load_samples(celeba, split="train")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"000001.jpg is corrupt"):
        load_samples(celeba, split="train")
    for name in ("face.jpg", "000000.jpg", "202600.jpg"):
        path = path.rename(path.with_name(name))
        with pytest.raises(DataError, match=rf"{name} is not called by a number of CelebA"):
            load_samples(celeba, split="train")


def test_celeba_says_when_a_split_is_empty(celeba):
    for path in (celeba / "img_align_celeba").glob("[12]*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="holds no image of split 'test' of CelebA"):
        load_samples(celeba)


@pytest.fixture
def gtsrb(tmp_path):
    folder = tmp_path / "root" / "gtsrb"
    sizes = {"00003/00001_00002": (40, 44), "00003/00001_00003": (60, 50), "00012/00000_00000": (30, 30)}
    for seed, (name, size) in enumerate(sizes.items()):
        path = folder / "GTSRB" / "Final_Training" / "Images" / f"{name}.ppm"
        path.parent.mkdir(parents=True, exist_ok=True)
        face(seed, size).save(path)
        (path.parent / f"GT-{path.parent.name}.csv").write_text("ignored")
    test = folder / "GTSRB" / "Final_Test" / "Images"
    test.mkdir(parents=True)
    for seed in range(2):
        face(9 + seed, (35, 45)).save(test / f"{seed:05d}.ppm")
    return folder


def test_gtsrb_has_whole_images_classes_and_tracks(gtsrb):
    assert list_sets(gtsrb.parent) == {"gtsrb": ("test", "train")}
    samples = load_samples("gtsrb[train]", data_root=gtsrb.parent)
    assert samples.ids == ("00003/00001_00002.ppm", "00003/00001_00003.ppm", "00012/00000_00000.ppm")
    assert samples.clusters == ("class03-track00001", "class03-track00001", "class12-track00000")
    assert samples.labels is not None and samples.labels.tolist() == [3, 3, 12]
    expected = np.asarray(face(1, (60, 50)).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(samples.x[1], np.moveaxis(expected, -1, 0))
    bare = load_samples(gtsrb / "GTSRB" / "Final_Training" / "Images", split="train")
    assert bare.fingerprint == samples.fingerprint
    with pytest.raises(DataError, match=r"\(GTSRB\) has no split 'test', only \['train'\]"):
        load_samples(gtsrb / "GTSRB" / "Final_Training" / "Images")


def test_gtsrb_test_images_have_labels_where_their_list_is_there(gtsrb):
    samples = load_samples("gtsrb", data_root=gtsrb.parent)
    assert samples.ids == ("00000.ppm", "00001.ppm") and samples.labels is None and samples.clusters is None
    listing = gtsrb / "GT-final_test.csv"
    listing.write_text("Filename;Width;ClassId\n00000.ppm;35;16\n00001.ppm;35;1\n")
    samples = load_samples(gtsrb)
    assert samples.labels is not None and samples.labels.tolist() == [16, 1]
    listing.write_text("Filename;Width;ClassId\n00000.ppm;35;16\n")
    with pytest.raises(DataError, match=r"has no class for 00001.ppm"):
        load_samples(gtsrb)
    listing.write_text("Filename,ClassId\n00000.ppm,16\n")
    with pytest.raises(DataError, match=r"GT-final_test.csv is no list"):
        load_samples(gtsrb)


def test_gtsrb_names_a_foreign_or_broken_file(gtsrb):
    images = gtsrb / "GTSRB" / "Final_Training" / "Images"
    path = images / "00003" / "00001_00002.ppm"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"00003/00001_00002.ppm is corrupt"):
        load_samples(gtsrb, split="train")
    face(0).save(path.with_name("extra.ppm"))
    path.unlink()
    with pytest.raises(DataError, match=r"extra.ppm is not called TTTTT_FFFFF.ppm"):
        load_samples(gtsrb, split="train")
