"""A matplotlib figure as a PNG."""

from pathlib import Path
from typing import Any

from stream.runtime.errors import DataError


def save_figure(figure: Any, path: Path) -> None:
    """Write and close a figure. Raises DataError."""
    import matplotlib.pyplot as plt

    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as bad:
        raise DataError(f"{path} can't be written: {bad}; name another file ending in .png with --plot") from None
    finally:
        plt.close(figure)
