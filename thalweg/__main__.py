"""The command `thalweg`; `python -m thalweg` is the same."""

import sys


def main() -> None:
    """Run the command line. Where it isn't installed, as beside `thalweg.client`, say in one line what brings it."""
    try:
        from thalweg.cli.main import app
    except ModuleNotFoundError as bad:
        if bad.name != "typer":
            raise
        sys.exit("thalweg: the command line isn't installed: pip install 'thalweg[tools]', or joiner, learner, ranker")
    app()


if __name__ == "__main__":
    main()
