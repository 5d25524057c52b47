"""Sets of the Hugging Face hub, called ``owner/name`` or ``owner/name:configuration``."""

from __future__ import annotations

import re
from typing import Final

from fisherscope.core.errors import DataError
from fisherscope.data.parquet import samples_from_table
from fisherscope.data.samples import DEFAULTS, ReadOptions, Samples

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?$")
# SVHN has two and the hub refuses to choose; the paper's is that of single digits.
_CONFIGURATIONS: Final = {"ufldl-stanford/svhn": "cropped_digits"}
_ANSWER_SECONDS = 10.0


def looks_like_hub_name(name: str) -> bool:
    """Return whether a name has the form ``owner/name`` or ``owner/name:configuration``.

    A bare name is never looked up, so that a mistyped local set cannot become a download.
    """
    return _HUB_NAME.match(name) is not None


def read_hub(hub_name: str, split: str, name: str, options: ReadOptions = DEFAULTS) -> Samples:
    """Read one split of a hub set; see :func:`~fisherscope.data.parquet.samples_from_table` for columns.

    A set with several configurations is asked for by one of them, as in ``ufldl-stanford/svhn:cropped_digits`` (which
    is also what SVHN alone means). ``HF_HUB_OFFLINE=1`` reads from the local cache only. Otherwise the hub is asked
    once, and has ten seconds to answer, before anything is downloaded.

    Raises:
        DataError: ``datasets`` is not installed, the hub cannot be reached, or it has no such set or split.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError("reading from the hub needs datasets; pip install 'fisherscope[data]'") from None
    repository, _, given = hub_name.partition(":")
    configuration = given or _CONFIGURATIONS.get(repository)
    _require_on_hub(repository)
    try:
        chosen = (repository,) if configuration is None else (repository, configuration)
        dataset = load_dataset(*chosen, split=split)
    except Exception as cause:  # datasets raises errors of many libraries; all of them mean: not loaded
        raise DataError(f"the hub set '{hub_name}' has not loaded ({_line(cause)})") from None
    return samples_from_table(dataset.with_format("arrow")[:], name, options)


def _require_on_hub(hub_name: str) -> None:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().dataset_info(hub_name, timeout=_ANSWER_SECONDS)
    except (HfHubHTTPError, HFValidationError) as cause:
        raise DataError(f"the hub has no set '{hub_name}' that can be read ({_line(cause)})") from None
    except Exception as cause:  # connection errors of whichever HTTP library the hub client brings
        raise DataError(
            f"the hub cannot be reached ({_line(cause)}); HF_HUB_OFFLINE=1 reads '{hub_name}' from the local cache"
        ) from None


def _line(cause: Exception) -> str:
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
