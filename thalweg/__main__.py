"""The command `thalweg`; `python -m thalweg` is the same."""

import sys
from typing import Final

USAGE: Final = 2  # exit code of an option or argument that isn't one


def main() -> None:
    """Run the command line. Where it isn't installed, as beside `thalweg.client`, say in one line what brings it."""
    try:
        from thalweg.cli.main import app
    except ModuleNotFoundError as bad:
        if bad.name != "typer":
            raise
        sys.exit("thalweg: the command line isn't installed: pip install 'thalweg[tools]', or joiner, learner, ranker")
    try:
        app()
    except SystemExit as end:
        if end.code != USAGE or sys.argv[1:2] != ["run"]:
            raise
        from stream.runtime.settings import refused_exit

        sys.exit(refused_exit())  # another start of a service won't mend its options


if __name__ == "__main__":
    main()
