"""Reports installs as events: delayed, sometimes retracted, and wrong where a scenario says so."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from producers.store import names
from producers.store.candidate_pools import CandidatePools
from producers.store.draws import Draws, Purpose, log_uniform
from producers.store.outgoing_queue import OutgoingQueue, event_time
from producers.store.pages import PageBatch
from producers.store.parameters import StoreParameters
from producers.store.population import Population
from producers.store.scenario import Bots, FlippedLabels, Scenario, Span
from stream.events.types import Install
from stream.tables.dtypes import F64, I64, Bools


class Reported(NamedTuple):
    """[B, k] each: what was installed, what is reported as installed, and which of either is retracted later."""

    installed: Bools
    reported: Bools
    retracted: Bools


class Reporter:
    """Turns the installs of pages into events of the queue, and tells the store's counts and the users about them."""

    def __init__(
        self, parameters: StoreParameters, scenario: Scenario, draws: Draws, start_ms: int, queue: OutgoingQueue
    ) -> None:
        self._parameters, self._scenario, self._draws = parameters, scenario, draws
        self.start_ms, self._queue = start_ms, queue

    def reported(self, pages: PageBatch, installed: Bools) -> Bools:
        """[B, k] what is reported as installed."""
        reported = installed
        for bots in self._scenario.all(Bots):
            clicking = self._draws.users(Purpose.BOTS, pages.users) < bots.share
            reported = reported | (clicking & within(pages.world_ms, [bots]))[:, None]
        flipped = within(pages.world_ms, self._scenario.all(FlippedLabels))
        return reported ^ flipped[:, None] if flipped.any() else reported

    def retracted(self, pages: PageBatch, installed: Bools) -> Bools | None:
        """[B, k] which of these installs are retracted later; None if there are no installs."""
        if not installed.any():
            return None
        draws = self._draws.pages(Purpose.RETRACTION, pages.numbers, installed.shape[1])
        return installed & (draws < self._parameters.reports.retracted)

    def report(self, pages: PageBatch, apps: I64, of: Reported, population: Population, pools: CandidatePools) -> None:
        """Users load what they install, and events report what is to be reported; `apps` [B, k] were shown."""
        reports = self._parameters.reports
        installed, reported = of.installed, of.reported
        rows, columns = np.nonzero(installed | reported)
        retracted = of.retracted[rows, columns]

        def drawn(purpose: Purpose) -> F64:
            return self._draws.pages(purpose, pages.numbers, installed.shape[1])[rows, columns]

        delays_s = reports.delays_s(drawn(Purpose.DELAY))
        named, back = drawn(Purpose.NAMED) < reports.named, drawn(Purpose.RETRACTION_DELAY)
        for n, (b, position) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            user, app = int(pages.users[b]), int(apps[b, position])
            world_ms = float(pages.world_ms[b] + 1_000 * delays_s[n])
            if installed[b, position]:
                population.load(user, app, world_ms, lasts=not retracted[n])
            if not reported[b, position]:
                continue
            install_id, page = f"{pages.request_id(b)}-{position}", pages.request_id(b) if named[n] else ""
            # A retraction follows its install by a millisecond at least, however compressed time is.
            back_ms = 1_000 * log_uniform(float(back[n]), reports.retracted_after_s)
            times_ms = (self._event_ms(world_ms), self._event_ms(world_ms + back_ms) + 1)
            made, undone = (
                Install(names.user_name(user), names.app_name(app), times_ms[again], install_id, page, again)
                for again in (False, True)
            )
            seen_ms = self._queue.put(made, times_ms[0])
            pools.see(seen_ms, app, self._queue.put(undone, times_ms[1]) if retracted[n] else None)

    def _event_ms(self, world_ms: float) -> int:
        return event_time(self.start_ms, world_ms, self._parameters.compress)


def within(world_ms: F64, spans: Iterable[Span]) -> Bools:
    """[n] whether a time is within any of the spans."""
    inside = np.zeros(len(world_ms), bool)
    for span in spans:
        inside |= (world_ms >= span.at_ms) & (world_ms < span.end_ms)
    return inside
