"""Commands for data scientists: what they know of a world before anything runs in production."""

import typer

lab = typer.Typer()
