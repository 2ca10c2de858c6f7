"""`python -m deploy.observability.dashboards`: writes dashboards/NAME.json from `panels.py`.

Grafana's own builders make the JSON, so a field that Grafana doesn't have is an error of types.
"""

from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueTextMode, DataSourceRef, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType

from deploy.observability.panels import BOARDS, Board, Panel

FOLDER: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT, WIDTH, NUMBER_HEIGHT = 8, 24, 4  # of panels, in Grafana's grid
COLUMNS: Final = {2: 2, 3: 3, 4: 4, 6: 3}  # of a row, by its panels


def text(board: Board, name: str) -> str:
    """A dashboard as JSON."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"thalweg-{name}")
        .tags(["thalweg"])
        .timezone("browser")
        .time("now-30m", "now")
        .refresh("10s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(dashboard.DashboardLink("Thalweg").type(DashboardLinkType.DASHBOARDS).tags(["thalweg"]).keep_time(True))
    )
    ids = count(1)
    for title, panels in board.rows.items():
        made = made.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            made = made.with_panel(built(panel, WIDTH // COLUMNS[len(panels)]).id(next(ids)))
    return JSONEncoder(indent=2, sort_keys=True).encode(made.build()) + "\n"


def built(panel: Panel, width: int) -> stat.Panel | timeseries.Panel:
    """A panel with its queries."""
    made: stat.Panel | timeseries.Panel
    if panel.is_number:
        last = common.ReduceDataOptions().calcs(["lastNotNull"])
        made = stat.Panel().text_mode(BigValueTextMode.VALUE_AND_NAME).reduce_options(last).height(NUMBER_HEIGHT)
    else:
        below = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
        made = timeseries.Panel().height(HEIGHT).fill_opacity(5).legend(below.placement(LegendPlacement.BOTTOM))
    made = made.title(panel.title).unit(panel.unit).span(width).datasource(SOURCE)
    if panel.note:
        made = made.description(panel.note)
    for n, (legend, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + n))
        made = made.with_target(target.instant() if panel.is_number else target.range())
    return made


def files() -> dict[Path, str]:
    """All dashboards: file and content."""
    return {FOLDER / f"{name}.json": text(board, name) for name, board in BOARDS.items()}


if __name__ == "__main__":
    for file, content in files().items():
        file.write_text(content)
