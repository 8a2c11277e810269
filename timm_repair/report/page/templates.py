"""Templates: files of the package that pages are made from. Whatever is put into one is escaped."""

import base64
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template


@cache
def source(package: str, name: str) -> str:
    """The text of a file of `package`."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def template(package: str, name: str, filters: dict[str, Callable[..., Any]]) -> Template:
    """A template of `package`, with these filters beside Jinja's and `percent`; a value that it
    lacks is an error.
    """
    environment = Environment(
        loader=FunctionLoader(partial(source, package)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    environment.filters |= filters
    return environment.get_template(name)


def data_uri(jpeg: bytes) -> str:
    """A picture within the page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
