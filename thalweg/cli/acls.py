"""`thalweg acls`: a role's grants in Kafka, as commands."""

from typing import Annotated

import typer

from thalweg.cli.options import ModelSpec, inspect_settings, model_name


def acls(
    role: Annotated[str, typer.Argument(help="joiner, learner, ranker, producer, caller or operator.")],
    principal: Annotated[str, typer.Option(help="Who gets the grants.", show_default="User:ROLE")] = "",
    spec: ModelSpec = None,
) -> None:
    """Print a role's grants in Kafka as kafka-acls commands.

    For a broker with an authorizer; the table is docs/acls.md. Learners and rankers have a group by their model's name:
    name it by --spec or THALWEG_MODEL.
    """
    from thalweg.views.acls import MODEL, ROLES, commands

    settings = inspect_settings()
    needs_model = role in ROLES and any(MODEL in group for group in ROLES[role].groups)
    model = model_name(settings, spec) if needs_model else ""
    for line in commands(role, settings, model, principal or f"User:{role}"):
        print(line)
