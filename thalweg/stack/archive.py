"""`python -m thalweg.stack.archive`: starts and stops a broker, and keeps the classes that its Java has loaded by then.

Every later start maps them instead of reading Kafka's jars. Measured: up after 1.6 to 2.4 s instead of 3.1 to 4.9 s,
for half the CPU time. An archive of another Java or of other jars is left aside by Java.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from thalweg.stack.stack import ARCHIVE, StackConfig, down, up


def main() -> None:
    """Make it anew. Without it all goes on, slower: where Java can't make one, that is said."""
    ARCHIVE.unlink(missing_ok=True)  # Java makes none on top of another
    new = ARCHIVE.with_suffix(".new")  # a broker that maps half an archive dies
    config = StackConfig(stop_timeout_s=120.0, java=(f"-XX:ArchiveClassesAtExit={new}",))
    with TemporaryDirectory() as root:
        up(Path(root), config=config)
        down(Path(root), config=config)
    try:
        new.replace(ARCHIVE)
    except OSError as bad:
        print(f"no archive of Kafka's classes, so brokers start slower: {bad}", file=sys.stderr)


if __name__ == "__main__":
    main()
