"""`hedgerow recipes`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from hedgerow.config.load import DEFAULT_RECIPE, recipe_named, recipe_names

__all__ = ["recipes"]


def recipes(
    models: Annotated[bool, typer.Option("--models", help="List models and data sets too.")] = False,
) -> None:
    """Lists the recipes."""
    width = max(len(name) for name in recipe_names())
    for name in recipe_names():
        said = "; the default" if name == DEFAULT_RECIPE else ""
        typer.echo(f"{name:<{width}}  {recipe_named(name).description}{said}")
    if models:
        from hedgerow.data import dataset_names
        from hedgerow.models import model_names

        typer.echo(f"\nmodels     {', '.join(model_names())}, or your own package.module:function")
        typer.echo(f"data sets  {', '.join(dataset_names())}, or your own package.module:function")
