"""`thalweg erase`: erases a user."""

from contextlib import ExitStack, closing
from typing import Annotated

import typer

from stream.runtime.errors import SettingsError
from thalweg.cli.options import JsonFile, ModelSpec, inspect_settings, model_name, print_stderr, write_json


def erase(
    user: Annotated[str, typer.Argument(help="User id.", show_default=False)] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Erase everyone again who was ever erased: after a backup was restored.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until everything has applied it.")] = 20.0,
    spec: ModelSpec = None,
    json_file: JsonFile = None,
) -> None:
    """Erase all that is known of a user; print a receipt.

    Attributes and installs, in the log and in Redis, open pages, and what the model knows of this id. The receipt says
    what stays in the log until its retention. The user may come back: as a new one. See docs/privacy.md.
    """
    from stream.events.checks import check_id
    from stream.events.types import Erase
    from stream.log.kafka_log import KafkaLog
    from stream.runtime.clock import now_ms
    from stream.snapshots.redis_client import connect, translated
    from stream.snapshots.redis_store import RedisStore
    from thalweg.views import erasure
    from thalweg.views.tables import print_table

    if bool(user) == again:
        raise SettingsError("name a user, or pass --again")
    if not again:
        check_id("user", user)
        try:
            user.encode()
        except UnicodeEncodeError:
            raise SettingsError("the user's id isn't UTF-8") from None
    settings = inspect_settings()
    with ExitStack() as opened:
        log = opened.enter_context(closing(KafkaLog(settings)))
        if again:
            erased = list(erasure.erase_again(log))
            print(f"{len(erased)} users are erased again")
            write_json(json_file, {"erased": len(erased)})
            return
        client, store = None, None
        if settings.redis:
            client = opened.enter_context(closing(connect(settings)))
            opened.enter_context(translated(client))
            if spec or settings.model:
                store = opened.enter_context(closing(RedisStore(settings, model_name(settings, spec))))
        event = Erase(user, now_ms())
        receipt = erasure.erase(log, event, client, store, settings.topic_prefix, wait)
    print_table(receipt.table())
    if warning := receipt.warning():
        print_stderr(warning)
    write_json(json_file, receipt.figures())
    if waiting := [step for step, ms in receipt.reached_ms.items() if ms is None]:
        print_stderr(f"Kafka has the erasure, it needn't be sent again; not yet applied: {', '.join(waiting)}")
        raise typer.Exit(1)
