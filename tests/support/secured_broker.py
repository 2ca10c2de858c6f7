"""A Kafka that lets nobody in without a login, or do anything without a grant; certificates for it."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from stream.runtime.settings import Settings
from thalweg.stack.broker import LOG_CONFIG, launch_broker
from thalweg.stack.server import LOOPBACK, end_process, free_port
from thalweg.stack.stack import DEFAULT, _wait

USERS: Final = ("joiner", "learner", "ranker", "producer", "caller", "operator", "nobody")
PASSWORD: Final = "of-{}"
JAAS: Final = "org.apache.kafka.common.security"


class SecuredBroker(NamedTuple):
    """Addresses by listener. Who connects to `admin` may do everything; `folder` has the certificates."""

    admin: str
    sasl: str
    tls: str
    folder: Path

    @property
    def log(self) -> Path:
        """Where it writes what it has allowed and denied."""
        return self.folder / "logs" / "kafka.log"

    def settings(self, user: str, prefix: str = "", **further: Any) -> Settings:
        """Of a user who logs in by password."""
        return Settings(
            kafka=self.sasl, kafka_security="SASL_PLAINTEXT", kafka_user=user, topic_prefix=prefix,
            kafka_password=PASSWORD.format(user), **further,
        )  # fmt: skip

    def tls_settings(self, **further: Any) -> Settings:
        """Over TLS."""
        return Settings(kafka=self.tls, kafka_security="SSL", **{"kafka_ca": str(self.folder / "ca.pem")} | further)


@contextmanager
def running_secured_broker(root: Path) -> Iterator[SecuredBroker]:
    """One node with an authorizer, without any grant; passwords, unsecured tokens and certificates are logins."""
    (root / "logs").mkdir(parents=True)
    make_certificates(root, "localhost", *("learner", "stranger"))
    ports = {name: free_port() for name in ("PLAINTEXT", "SASL", "TLS", "CONTROLLER")}
    listeners = ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in ports.items())
    passwords = " ".join(f'user_{user}="{PASSWORD.format(user)}"' for user in USERS)
    server_key = root / "localhost.pem"
    further = f"""
listeners={listeners}
advertised.listeners={listeners.rpartition(",")[0]}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL
inter.broker.listener.name=PLAINTEXT
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN,OAUTHBEARER
listener.name.sasl.plain.sasl.jaas.config={JAAS}.plain.PlainLoginModule required {passwords};
listener.name.sasl.oauthbearer.sasl.jaas.config={JAAS}.oauthbearer.OAuthBearerLoginModule required \
unsecuredLoginStringClaim_sub="broker";
ssl.keystore.type=PEM
ssl.keystore.location={server_key}
ssl.truststore.type=PEM
ssl.truststore.location={root / "ca.pem"}
listener.name.tls.ssl.client.auth=required
listener.name.tls.ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT
"""
    logging = root / "log4j2.xml"
    logged = (
        LOG_CONFIG.read_text()
        .replace("8 MB", "1 GB")
        .replace("  </Loggers>", '    <Logger name="kafka.authorizer.logger" level="DEBUG"/>\n  </Loggers>')
    )
    logging.write_text(logged)
    options = (f"-Dlog4j2.configurationFile={logging}",)
    server = launch_broker(root, ports["PLAINTEXT"], ports["CONTROLLER"], options, further)
    try:
        _wait(server, DEFAULT)
        yield SecuredBroker(server.address, f"{LOOPBACK}:{ports['SASL']}", f"localhost:{ports['TLS']}", root)
    finally:
        end_process(server, signal.SIGKILL, 20)


def make_certificates(folder: Path, *names: str) -> None:
    """`ca.pem`; for each name `NAME.pem` with its key in it, apart `NAME.crt`, `NAME.key` (encrypted), `NAME.raw`."""
    _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca",
             "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    for name in names:
        _openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.raw",
                 "-out", f"{name}.csr")  # fmt: skip
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name},IP:{LOOPBACK}")
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt")  # fmt: skip
        _openssl(folder, "pkcs8", "-topk8", "-in", f"{name}.raw", "-passout", "pass:sesame", "-out", f"{name}.key")
        (folder / f"{name}.pem").write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.raw").read_text())


def _openssl(folder: Path, *words: str) -> None:
    done: Sequence[str] = ("openssl", *words)
    subprocess.run(done, cwd=folder, check=True, capture_output=True)
