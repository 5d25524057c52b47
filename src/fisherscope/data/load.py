"""The one front door to data: what a user writes after ``--data`` to samples."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fisherscope.core.errors import DataError, SettingError
from fisherscope.data.arrays import read_array_file, samples_from_array
from fisherscope.data.bundled import list_bundled, load_bundled
from fisherscope.data.csv_files import read_csv
from fisherscope.data.folders import read_folder
from fisherscope.data.formats import batch_format, list_splits, looked_for, read_original
from fisherscope.data.hub import looks_like_hub_name, read_hub
from fisherscope.data.images import SUFFIXES, resize_array
from fisherscope.data.named import ENVIRONMENT, SPLIT_SUFFIXES, find_root, list_sets, named_file, shards, split_files
from fisherscope.data.parquet import read_parquet
from fisherscope.data.samples import Array, ReadOptions, Samples, Shape
from fisherscope.data.texts import read_text

_BRACKET = re.compile(r"^(?P<base>.+)\[(?P<split>[^\[\]]+)\]$")
_ARRAY_SUFFIXES = (".npy", ".npz")
_TEXT = ".txt"
_FILE_SUFFIXES = (*_ARRAY_SUFFIXES, ".parquet", ".csv", _TEXT, *SUFFIXES)


@dataclass(frozen=True)
class _Request:
    base: str
    split: str | None
    default_split: str
    default_window: int | None
    data_root: str | Path | None
    options: ReadOptions

    @property
    def chosen_split(self) -> str:
        return self.split or self.default_split

    @property
    def name(self) -> str:
        return f"{self.base}[{self.chosen_split}]"


def load_samples(
    spec: str | Path | Array | Samples,
    *,
    split: str | None = None,
    default_split: str = "test",
    data_root: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    resize: Shape | None = None,
    window: int | None = None,
    default_window: int | None = None,
) -> Samples:
    """Load samples from whatever the user wrote.

    A text is looked up in this order; the first that exists is taken:

    1. a folder: one with ``{split}-*.parquet`` shards is a set of splits, and so is one that holds a download as its
       authors packed it (:mod:`fisherscope.data.formats`: SVHN, ImageNet32, CIFAR-10, MNIST, CelebA, GTSRB); any
       other is read as a folder of images, with its subfolders. A subfolder that bears the split's name is taken as
       that split;
    2. a ``.parquet`` file;
    3. a ``.npy`` or ``.npz`` array; ``file.npz[name]`` picks one of several arrays;
    4. a ``.txt`` text, cut into windows of bytes, or a ``.csv`` table of numbers: all of it, or as the split ``train``
       its first 80 % and as ``test`` the rest; or one file of such a download, by its original name;
    5. a named set below ``data_root`` or FISHERSCOPE_DATA: a folder of shards or of such a download, or such a text or
       table (``text/tiny_shakespeare.txt``, never all of it);
    6. a bundled set (:func:`~fisherscope.data.bundled.list_bundled`);
    7. a set of the Hugging Face hub, if the text has the form ``owner/name`` or ``owner/name:configuration`` and there
       is no folder ``owner`` here.

    Args:
        spec: such a text or path, optionally ending in ``[split]``; an array; or samples, which pass through.
        split: the same as ``[split]``; giving both, differently, is an error.
        default_split: the split of a set that has splits, where none is given.
        data_root: folder of named sets; default is the environment's FISHERSCOPE_DATA.
        limit: at most so many samples: a random subset by ``seed``, not the first ones, in their original order.
        seed: of that subset.
        resize: (C, H, W) to crop, resample and convert images to; without it images are taken exactly as they are.
        window: bytes of each window of a text; asked of anything else it is an error.
        default_window: the same where none is given, for instance that of the model; of no effect on anything else.

    Returns:
        The samples, named as the user wrote them, with the split.

    Raises:
        DataError: nothing is found under that name (the message lists what was tried), or what is found cannot be
            used; the message names the first bad file or row.
        SettingError: contradicting splits, or a ``limit`` or ``resize`` out of range.
    """
    options = ReadOptions(limit, seed, resize, window)
    if isinstance(spec, (Samples, np.ndarray)):
        if window is not None:
            raise SettingError(f"a window of {window} was asked of data in memory; only text files are cut")
        if split is not None:
            raise SettingError(f"split '{split}' was asked of data in memory, which has no splits; leave it out")
        return _from_memory(spec, options)
    text = str(spec)
    if not text.strip():
        raise DataError("the data's name is empty; give a folder, a file or the name of a set")
    base, bracket = _base_and_split(text)
    if bracket is not None and split is not None and bracket != split:
        raise SettingError(f"'{text}' asks for split '{bracket}' but --split for '{split}'; give one of them")
    chosen = bracket if split is None else split
    return _from_text(_Request(base, chosen, default_split, default_window, data_root, options))


def has_samples(spec: str, data_root: str | Path | None = None) -> bool:
    """Return whether :func:`load_samples` knows where a set is; a hub name counts as known, nothing is read."""
    base, _ = _base_and_split(spec)
    known = base in list_bundled() or base in list_sets(data_root)
    return known or Path(base).expanduser().exists() or looks_like_hub_name(base)


def _base_and_split(text: str) -> tuple[str, str | None]:
    # An existing path wins over the bracket grammar: a folder may be called "shots[1]".
    match = None if Path(text).expanduser().exists() else _BRACKET.match(text)
    return (match["base"], match["split"]) if match else (text, None)


def _from_memory(data: Array | Samples, options: ReadOptions) -> Samples:
    if not isinstance(data, Samples):
        return samples_from_array(data, "array", options)
    chosen = data.select(options.rows(len(data)))
    if options.resize is None or chosen.shape == options.resize:
        return chosen
    if chosen.x.dtype != np.uint8:
        raise DataError(f"{data.name} is {chosen.x.dtype}; only uint8 images can be resized")
    x = resize_array(chosen.x, options.resize)
    return Samples.from_array(x, chosen.ids, chosen.name, chosen.labels, chosen.clusters)


def _from_text(request: _Request) -> Samples:
    path = Path(request.base).expanduser()
    if request.options.window is not None and path.suffix.lower() != _TEXT:
        raise SettingError(f"a window was asked of {request.base}; only texts ({_TEXT}) are cut into windows")
    if path.is_dir():
        return _from_folder(path, request)
    if path.is_file():
        return _from_file(path, request)
    root = find_root(request.data_root)
    if root is not None and (file := named_file(root, request.base)):
        return _from_file(file, replace(request, split=request.chosen_split))
    if root is not None and path.suffix in SPLIT_SUFFIXES:
        raise DataError(_not_found(request))
    if path.suffix.lower() in _FILE_SUFFIXES or request.base.startswith(("/", "./", "../", "~")):
        raise DataError(f"{path} does not exist; check the path")
    if root is not None and _is_plain(request.base) and (root / request.base).is_dir():
        return _from_named(root / request.base, request)
    if request.base in list_bundled():
        samples = load_bundled(request.base, request.chosen_split)
        return _from_memory(samples, request.options)
    if path.parent.name and path.parent.is_dir():  # a mistyped path, of which the hub need not be asked
        raise DataError(f"{path} does not exist, though {path.parent} does; check the path")
    if looks_like_hub_name(request.base):
        try:
            return read_hub(request.base, request.chosen_split, request.name, request.options)
        except DataError as cause:
            raise DataError(f"{_not_found(request)}; {cause}") from None
    raise DataError(_not_found(request))


def _from_named(folder: Path, request: _Request) -> Samples:
    if split_files(folder):
        return _from_shards(folder, request)
    if list_splits(folder):
        return read_original(folder, request.chosen_split, request.name, request.options)
    if request.base in list_bundled():
        return _from_memory(load_bundled(request.base, request.chosen_split), request.options)
    raise DataError(
        f"{folder} is no named set; looked for split-*.parquet, {looked_for()}; give the folder's path to read it as "
        "a folder of images"
    )


def _from_folder(folder: Path, request: _Request) -> Samples:
    if split_files(folder):
        return _from_shards(folder, request)
    if list_splits(folder):
        return read_original(folder, request.chosen_split, request.name, request.options)
    name = request.base
    if (folder / request.chosen_split).is_dir():
        folder, name = folder / request.chosen_split, request.name
    elif request.split is not None:
        found = sorted(p.name for p in folder.iterdir() if p.is_dir())
        raise DataError(f"{folder} has no split '{request.split}': its subfolders are {found}; leave the split out")
    return read_folder(folder, name, request.options)


def _from_shards(folder: Path, request: _Request) -> Samples:
    paths = shards(folder, request.chosen_split)
    return read_parquet(paths, request.name, request.options)


def _from_file(path: Path, request: _Request) -> Samples:
    suffix = path.suffix.lower()
    name = request.base if request.split is None else request.name
    if original := batch_format(path):
        _refuse_split(path, request)
        return original.read_files([path], name, request.options)
    if suffix == _TEXT:
        options = replace(request.options, window=request.options.window or request.default_window)
        return read_text(path, name, options, split=request.split)
    if suffix == ".csv":
        return read_csv(path, name, request.options, split=request.split)
    if suffix in _ARRAY_SUFFIXES:
        return read_array_file(path, name, request.options, entry=request.split)
    if suffix != ".parquet":
        raise DataError(
            f"{path} is a file ending in '{path.suffix}', expected a folder of images, .parquet, .npy, .npz, .csv or "
            ".txt; put single images into a folder"
        )
    _refuse_split(path, request)
    return read_parquet([path], request.base, request.options)


def _refuse_split(path: Path, request: _Request) -> None:
    if request.split is not None:
        raise DataError(f"{path} is a single file without splits, but split '{request.split}' was asked; leave it out")


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in (".", "..")


def _not_found(request: _Request) -> str:
    root = find_root(request.data_root)
    sets = f"sets under {root}: {', '.join(list_sets(root)) or 'none'}" if root else f"{ENVIRONMENT} is not set"
    known = [n for n in list_bundled() if not n.endswith(("-16", "-rgb"))]
    return (
        f"'{request.base}' is no file or folder, no named set ({sets}; set {ENVIRONMENT} or --data-root to the folder "
        f"of named sets), no bundled set ({', '.join(known)}) and no readable hub set 'owner/name'"
    )
