"""The pages' templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page_template(name: str, filters: Mapping[str, Callable[..., str]] | None = None) -> Template:
    """Return a template of the package; every text that it is given is escaped, and every name has to be given.

    Args:
        name: of the file, such as ``report.html``.
        filters: functions that it may apply to values, by name.
    """
    environment = Environment(
        loader=PackageLoader("fisherscope.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    known: dict[str, Any] = environment.filters
    known |= filters or {}
    return environment.get_template(name)
