"""What all pages have in common: their style, and how templates are read."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

__all__ = ["page_style", "page_template"]


def page_template(package: str, name: str) -> Template:
    """A template that lies in a package. All that is put into it is escaped, but what is `Markup`."""
    # autoescape is what keeps a device's text from becoming markup; only our own SVG is passed as markup.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8"))


def page_style() -> Markup:
    """The style sheet, without its last line feed."""
    return Markup(files(__package__).joinpath("page.css").read_text(encoding="utf-8").rstrip("\n"))
