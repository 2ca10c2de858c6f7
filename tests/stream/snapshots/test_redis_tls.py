"""Redis that wants clients' certificates: one server, a cluster's node."""

import contextlib
import signal
from pathlib import Path

import pytest

from stream.runtime.errors import StoreUnavailable
from stream.runtime.settings import Settings
from stream.snapshots.redis_store import RedisStore
from tests.support.redis_servers import all_slots, running_tls_server
from tests.support.secured_broker import make_certificates
from tests.support.small_versions import publish, values
from thalweg.stack.server import end_process


@pytest.mark.parametrize("kind", ["", "+cluster"])
def test_certificates(tmp_path: Path, kind: str) -> None:
    """With one a version is published and read, without one nothing is."""
    make_certificates(tmp_path, "localhost", "learner")
    server = running_tls_server(
        tmp_path, "localhost", *(("--cluster-enabled", "yes", "--tls-cluster", "yes") if kind else ())
    )
    try:
        url = f"rediss{kind}://localhost:{server.port}"
        ca, cert, key = (str(tmp_path / name) for name in ("ca.pem", "learner.crt", "learner.key"))
        known = Settings(redis=url, redis_ca=ca, redis_cert=cert, redis_key=key, redis_key_password="sesame")
        if kind:
            all_slots(server.port, tmp_path)
        with contextlib.closing(RedisStore(known, "m")) as store:
            publish(store, 1, 0, store.take_token())
            assert values(store, 1) == [1]
            store.wait(0.01)
        with (
            contextlib.closing(RedisStore(Settings(redis=url, redis_ca=ca), "m")) as store,
            pytest.raises(StoreUnavailable),
        ):
            store.head()
    finally:
        end_process(server, signal.SIGKILL, 10)
