"""Variables that Kubernetes sets in each container for each Service of its namespace (`enableServiceLinks`).

A Service named `thalweg-ranker` makes `THALWEG_RANKER_PORT=tcp://10.0.0.11:8080`: a name that is a setting of ours.
"""

import re
from typing import Final

_PROTOCOL: Final = r"(?:TCP|UDP|SCTP)"
_URL: Final = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
_ADDRESS: Final = re.compile(r"[0-9.]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*")
_NUMBER: Final = re.compile(r"\d+")
_FORMS: Final = [
    (re.compile(r"(?:\w+_)?SERVICE_HOST"), _ADDRESS),
    (re.compile(r"(?:\w+_)?SERVICE_PORT(?:_\w+)?"), _NUMBER),
    (re.compile(rf"(?:\w+_)?PORT(?:_\d+_{_PROTOCOL})?"), _URL),
    (re.compile(rf"(?:\w+_)?PORT_\d+_{_PROTOCOL}_ADDR"), _ADDRESS),
    (re.compile(rf"(?:\w+_)?PORT_\d+_{_PROTOCOL}_PORT"), _NUMBER),
    (re.compile(rf"(?:\w+_)?PORT_\d+_{_PROTOCOL}_PROTO"), re.compile(_PROTOCOL, re.IGNORECASE)),
]  # names after THALWEG_, and their values


def is_service_link(name: str, value: str) -> bool:
    """Whether a variable has the name and the value that Kubernetes gives for a Service `thalweg` or `thalweg-...`.

    >>> is_service_link("THALWEG_RANKER_PORT", "tcp://10.0.0.11:8080"), is_service_link("THALWEG_RANKER_PORT", "8080")
    (True, False)
    """
    short = name.removeprefix("THALWEG_")
    return short != name and any(form.fullmatch(short) and values.fullmatch(value) for form, values in _FORMS)
