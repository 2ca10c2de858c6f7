"""Writes a draft of a spec as TOML, each line with its reason. Pure."""

from collections.abc import Iterator
from typing import Final

from stream.runtime.errors import DataError
from stream.spec.built_in_columns import NEWEST
from stream.spec.columns import NUMBERS
from stream.spec.parts import DELAYS_MAX
from stream.spec.retrieval import Retrieval
from stream.spec.spec import SLICE_BYTES_MAX
from thalweg.onboarding.column_roles import MEDIUM, SMALL, ColumnRoles
from thalweg.onboarding.findings import FEW_LABELS, counted, share
from thalweg.onboarding.survey import Survey
from thalweg.onboarding.toml_text import commented, quoted, toml_key, toml_text
from thalweg.text.durations import format_duration, round_up_duration, spec_duration

FEW_SHOWN: Final = 20_000  # shown items, below which embeddings are small and rows come early
SLICES: Final = 4
BASE_RATE_MAX: Final = 0.99
EAGER_MS: Final = 3_600_000  # windows up to here leave negatives young enough
GATE_LOW, GATE_HIGH = 0.3, 3.0  # bounds of calibration where labels lag behind their pages
LATENESS_MS: Final = 600_000  # files with later events should rather be sorted
HISTORY_SIZES: Final = (5, 10, 20, 50, 100)
FEATURES: Final = 10  # categories of the wide part, besides ids
CANDIDATES: Final = Retrieval().count
Line = tuple[str, str]  # a line of TOML, and its reason or nothing


class SpecDraft:
    """A draft for what a survey has seen. Raises DataError without pages."""

    def __init__(self, survey: Survey, source: str, name: str) -> None:
        if not survey.pages:
            broken = survey.broken.count
            found = f"{broken:,} of {survey.lines:,} lines can't be read" if broken else "none"
            raise DataError(f"{source}: a spec is drafted from pages (impressions): {found}; see docs/events.md")
        self.survey, self.source, self.name = survey, source, name
        self.roles = ColumnRoles(survey)

    def text(self) -> str:
        """The whole spec as TOML."""
        parts = [self._head(), self._user(), self._item(), self._context(), self._statistics(), self._wide(),
                 self._deep(), self._retrieval(), self._label(), self._publish(), self._slices()]  # fmt: skip
        return "\n".join("".join(commented(*line) for line in lines) for lines in map(list, parts) if lines)

    def _head(self) -> Iterator[Line]:
        survey = self.survey
        span = format_duration(survey.last_ms - survey.first_ms)
        yield f"# Drafted by `thalweg init` from {quoted(self.source)}: {counted(survey.pages, 'page')} that showed", ""
        yield f"# {counted(survey.shown, 'item')}, {counted(survey.installs, 'install')}, over {span}.", ""
        yield "# Each line says why; change what you know better. Then `thalweg check` and `thalweg backtest` it.", ""
        yield f"name = {toml_text(self.name)}", ""

    def _user(self) -> Iterator[Line]:
        survey = self.survey
        yield "[user]", ""
        yield 'id = "category"', f"{counted(survey.users_shown, 'user')} on {counted(survey.pages, 'page')}"
        yield from self._columns("user")
        if self.roles.history:
            size = survey.histories.quantile(0.95)
            last = next((one for one in HISTORY_SIZES if one >= size), HISTORY_SIZES[-1])
            part = share(survey.with_history, survey.pages)
            why = f"installs before the page: {part} of pages have some, 95 % have at most {size:.0f}"
            yield f'{self.roles.history} = {{ of = "item.id", last = {last} }}', why
        else:
            yield "# no history: no user installed anything and came back", ""

    def _item(self) -> Iterator[Line]:
        yield "[item]", ""
        shown, described = counted(self.survey.items_shown, "item"), counted(self.survey.item.entities, "item line")
        yield 'id = "category"', f"{shown} on pages, {described}"
        yield from self._columns("item")

    def _context(self) -> Iterator[Line]:
        columns = list(self._columns("context"))
        if columns or self.roles.has_position:
            yield "[context]", ""
        yield from columns
        if self.roles.has_position:
            largest = max(self.survey.page_sizes)
            first, last = (self.survey.rate_at(p)[1] for p in (0, largest - 1))
            why = (
                f"up to {largest} items a page, installed {100 * first:.3g} % at the first, {100 * last:.3g} % at the "
            )
            why += "last position: learned as logged, fixed when ranking"
            yield 'position = { type = "number", serve_as = 1 }', why

    def _columns(self, origin: str) -> Iterator[Line]:
        for name, found in self.roles.guesses[origin].items():
            if reserved := self.roles.reserved(origin, name):
                yield f"# {quoted(name)}: {reserved}", ""
            elif found.kind is None:
                yield f"# {quoted(name)}: {found.why}", ""
            elif self.roles.is_banded(origin, name):
                bands = ", ".join(f"{cut:.10g}" for cut in found.bands)
                yield f'{toml_key(name)} = {{ type = "number", bands = [{bands}] }}', found.why
            else:
                yield f'{toml_key(name)} = "{found.kind}"', found.why
        seen = self.survey.origins[origin]
        if seen.left_out:
            yield f"# more than {len(seen.columns)} columns came: the rest was left out", ""

    def _statistics(self) -> Iterator[Line]:
        survey = self.survey
        prior = _prior(survey.base_rate)
        rate = f"base rate {share(survey.labels, survey.shown)}, which weighs like {prior} shows"
        yield "[statistics]", ""
        yield f'item_rate = {{ kind = "rate", by = ["item.id"], prior = {prior} }}', rate
        yield 'item_seen = { kind = "count", by = ["item.id"] }', "how sure its rate is"
        if self.roles.many_pages:
            each = survey.pages / max(1, survey.users_shown)
            yield f'user_rate = {{ kind = "rate", by = ["user.id"], prior = {prior} }}', f"{each:.0f} pages a user"
            yield 'user_seen = { kind = "count", by = ["user.id"] }', "new or known"
            yield 'user_last = { kind = "since", by = ["user.id"] }', "comes back after how long"
        else:
            users, verb = counted(survey.users_shown, "user"), "has" if survey.users_shown == 1 else "have"
            yield f"# no statistics by user: {users} {verb} only {counted(survey.pages, 'page')}", ""
        kind = self.roles.item_kind()
        names = {"item_rate", "item_seen", "user_rate", "user_seen", "user_last", "alike", "next"}
        if kind and self.roles.many_pages:
            names.add("taste")
            why = f"what of {kind.short} ({kind.values:,} values) this user likes"
            yield _residual("taste", "user.id", kind.name, prior), why
        for group in self.roles.groups():
            name = f"{group.short}_taste"
            if name not in names:
                names.add(name)
                why = f"{group.values} values by {survey.items_shown:,} items"
                yield _residual(name, group.name, "item.id", prior), why
        if self.roles.history:
            affinity = f'{{ kind = "affinity", of = "item.id", to = "user.{self.roles.history}" }}'
            yield f"alike = {affinity}", "who installed that installs this"
            newest = f"user.{self.roles.history}{NEWEST}"
            yield _residual("next", newest, "item.id", prior), "after the newest, this one"

    def _wide(self) -> Iterator[Line]:
        named = self.roles.categories(*self.survey.origins)
        features = ["user.id"] * self.roles.many_pages + ["item.id"]
        features += [each.name for each in named if each.values <= MEDIUM][:FEATURES]
        crosses = list(self._crosses())
        yield "[wide]", "memorises"
        yield "alpha = 0.05", ""
        yield "l1 = 0.1", ""
        yield f"features = [{', '.join(map(toml_text, features))}]", ""
        if crosses:
            yield "crosses = [", ""
            yield from ((f"  [{toml_text(one)}, {toml_text(other)}],", why) for one, other, why in crosses)
            yield "]", ""

    def _crosses(self) -> Iterator[tuple[str, str, str]]:
        """Pairs of columns, and why."""
        kind, history = self.roles.item_kind(), f"user.{self.roles.history}"
        if self.roles.history:
            yield history, "item.id", ""
            yield history + NEWEST, "item.id", "after the newest, this one"
        if kind and self.roles.many_pages:
            yield "user.id", kind.name, ""
        for group in self.roles.groups():
            yield group.name, "item.id", ""
        for name, why in self.roles.page_times():
            yield name, kind.name if kind else "item.id", why

    def _deep(self) -> Iterator[Line]:
        features, most = [], 0
        for origin in self.survey.origins:
            for name, found in self.roles.usable(origin):
                features.append(f"{origin}.{name}")
                most = max(most, found.distinct if found.kind not in NUMBERS else 0)
        if self.roles.history:
            features.append(f"user.{self.roles.history}")
            most = max(most, self.survey.items_shown)
        features += [name for name, _ in self.roles.page_times()]
        features += ["context.position"] * self.roles.has_position + ["statistics.*"]
        yield "[deep]", "generalises; ids are the wide part's: embeddings of them memorise"
        yield f"features = [{', '.join(map(toml_text, features))}]", ""
        dim = 32 if most > MEDIUM else 16 if most > SMALL else 8
        yield f"embedding_dim = {dim}", f"its largest column has {counted(most, 'value')}"
        if self.survey.labels < FEW_LABELS:
            installs = counted(self.survey.labels, "install")
            yield "learning_rate = 0.005", f"only {installs} to learn from (the default is 0.02)"
        if self.survey.shown < FEW_SHOWN:
            items = counted(self.survey.shown, "item")
            yield "min_count = 2", f"only {items} shown: ids get a row early (the default is 10)"

    def _retrieval(self) -> Iterator[Line]:
        survey, kind = self.survey, self.roles.item_kind()
        items = max(survey.items_shown, survey.item.entities)
        if items <= CANDIDATES:
            return
        yield "[retrieval]", f"{CANDIDATES} candidates of {items:,} items; quotas, the rest is popular"
        if self.roles.history:
            yield "together = 40", "what those install who have the user's last items"
            yield "neighbours = 20", "items whose vectors are near those of the user's last ones"
        if self.roles.history and kind:
            yield "same = 5", "items that share a value of these columns with the user's last ones"
            yield f"same_by = [{toml_text(kind.name)}]", f"{kind.values:,} values"
        yield "trending = 5", "more installs in the last day of event time than usual"
        yield "new = 5", "less than 100 impressions: what is never shown is never learned"

    def _label(self) -> Iterator[Line]:
        delays = self.survey.delays
        p50, p95 = delays.quantile(0.5), delays.quantile(0.95)
        window = round_up_duration(p95) if delays.count else "30m"
        yield "[label]", ""
        if self.survey.labels:
            rate = min(self.survey.base_rate, BASE_RATE_MAX)
            yield f"base_rate = {rate:.2g}", "of shown items that are installed: predictions begin there"
        if self._is_eager():
            yield 'policy = "eager"', "an install is emitted at once, the rest when the window closes"
        else:
            why = f"negatives don't wait {window}: they come as late as installs, and later installs correct them"
            yield 'policy = "delayed_negative"', why
            shares = [0.95 * (k + 0.5) / DELAYS_MAX for k in range(DELAYS_MAX)]
            texts = ", ".join(f'"{spec_duration(delays.quantile(share))}"' for share in shares)
            yield f"delays = [{texts}]", "quantiles of installs' delays"
        why = "a guess: no install has a page"
        if delays.count:
            why = f"installs come {format_duration(p50)} (p50), {format_duration(p95)} (p95) after their page"
        if lost := self.survey.without_page:
            why += f"; {lost:,} of {self.survey.installs:,} installs have no page"
        yield f'window = "{window}"', why
        yield self._lateness()

    def _is_eager(self) -> bool:
        return self.survey.delays.quantile(0.95) <= EAGER_MS

    def _publish(self) -> Iterator[Line]:
        if not self._is_eager():
            yield "[publish]", ""
            why = "wider than the default 0.8 to 1.25: installs that come now are of older pages, so when traffic "
            why += "changes they don't fit the predictions beside them"
            yield f"gate = {{ calibration = [{GATE_LOW}, {GATE_HIGH}] }}", why

    def _lateness(self) -> Line:
        behind, p99 = self.survey.behind, self.survey.behind.quantile(0.99)
        if not behind.count:
            return 'lateness = "0s"', "in order of event time"
        what = f"{behind.count:,} events are older than one before them, by up to {format_duration(behind.high)}"
        if p99 > LATENESS_MS:
            return 'lateness = "0s"', f"{what}: sort the file by time"
        return f'lateness = "{round_up_duration(p99)}"', what

    def _slices(self) -> Iterator[Line]:
        column = self.roles.slice_column()
        if column is None:
            return
        origin, name = column.name.split(".", 1)
        common = self.survey.origins[origin].columns[name].most_common(SLICES)
        values = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v, _ in common]
        fit = [v for v in dict.fromkeys(values) if v and len(f"{column.name}={v}".encode()) <= SLICE_BYTES_MAX]
        if fit:
            yield "[slices]", "metrics are reported for these too"
            yield f"{toml_text(column.name)} = [{', '.join(map(toml_text, fit))}]", ""


def _residual(name: str, one: str, other: str, prior: int) -> str:
    return f'{name} = {{ kind = "residual", by = [{toml_text(one)}, {toml_text(other)}], prior = {prior} }}'


def _prior(rate: float) -> int:
    """The number of shows with about two installs, to one digit, 5 to 200."""
    wanted = min(200.0, max(5.0, 2 / rate)) if rate else 10.0
    return int(float(f"{wanted:.1g}"))
