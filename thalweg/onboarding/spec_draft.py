"""A spec's text for what a survey has seen, each line with its reason. Pure."""

from collections.abc import Iterator
from typing import Final

from stream.runtime.errors import DataError
from stream.spec.spec import SLICE_BYTES_MAX
from thalweg.onboarding.columns import Origin
from thalweg.onboarding.findings import FEW_LABELS, share
from thalweg.onboarding.survey import Survey
from thalweg.onboarding.type_guess import Guess, Named, band_count, guess, quoted, toml_key, toml_text
from thalweg.text.durations import rounded_up, spoken

PAGES_EACH: Final = 5  # pages of a user (shows of an item) from which on its own weight is worth learning
FEW_SHOWN: Final = 20_000  # shown items, below which embeddings are small and rows come early
SMALL, MEDIUM = 50, 2_000  # values of a category: for crosses with items; for a taste per user
CROSSES: Final = 3
SLICES: Final = 4
RARE: Final = 0.01  # a base rate below
EAGER_MS: Final = 3_600_000  # windows up to here leave negatives young enough
GATE_LOW, GATE_HIGH = 0.3, 3.0  # bounds of calibration where labels lag behind their pages
LATENESS_MS: Final = 600_000  # who waits longer for stragglers had better sort
COMMENT_AT: Final = 46
HISTORY_SIZES: Final = (5, 10, 20, 50, 100)


class Outline:
    """A spec's text for what a survey has seen. Raises DataError where there are no pages."""

    def __init__(self, survey: Survey, source: str, name: str) -> None:
        if not survey.pages:
            lines = (
                f"{survey.broken.count:,} of {survey.lines:,} lines can't be read" if survey.broken.count else "none"
            )
            raise DataError(f"{source}: a spec is drafted from pages (impressions): {lines}; see docs/events.md")
        self.survey, self.source, self.name = survey, source, name
        self.guesses = {
            origin: {
                column: guess(column, seen, getattr(survey, origin))
                for column, seen in getattr(survey, origin).columns.items()
            }
            for origin in ("user", "item", "context")
        }
        self.many_pages = survey.pages >= PAGES_EACH * survey.users_shown
        free = (name for name in ("history", "installed", "installs") if name not in survey.user.columns)
        self.history = next(free, "") if survey.with_history else ""
        self.position = max(survey.page_sizes) > 1
        self.rare = survey.base_rate < RARE

    def text(self) -> str:
        """The whole spec, as TOML."""
        parts = [self._head(), self._user(), self._item(), self._context(), self._statistics(), self._wide(),
                 self._deep(), self._label(), self._publish(), self._slices()]  # fmt: skip
        return "\n".join("\n".join(lines) + "\n" for lines in map(list, parts) if lines)

    def _span(self) -> str:
        return spoken(self.survey.last_ms - self.survey.first_ms)

    # --- columns -------------------------------------------------------------------------------------------------

    def _head(self) -> Iterator[str]:
        survey = self.survey
        yield f"# Drafted by `thalweg init` from {quoted(self.source)}: {survey.pages:,} pages that showed"
        yield f"# {survey.shown:,} items, {survey.installs:,} installs, over {self._span()}."
        yield "# Each line says why; change what you know better. Then `thalweg check` and `thalweg backtest` it."
        yield f"name = {toml_text(self.name)}"

    def _user(self) -> Iterator[str]:
        survey = self.survey
        yield "[user]"
        yield _line('id = "category"', f"{survey.users_shown:,} users on {survey.pages:,} pages")
        yield from self._columns("user", survey.user)
        if self.history:
            size = survey.histories.quantile(0.95)
            last = next((size_ for size_ in HISTORY_SIZES if size_ >= size), HISTORY_SIZES[-1])
            yield _line(
                f'{self.history} = {{ of = "item.id", last = {last} }}',
                f"installs before the page: {share(survey.with_history, survey.pages)} of pages have some, 95 % have "
                f"at most {size:.0f}",
            )
        else:
            yield "# no history: no user installed anything and came back"

    def _item(self) -> Iterator[str]:
        survey = self.survey
        yield "[item]"
        yield _line('id = "category"', f"{survey.items_shown:,} items on pages, {survey.item.entities:,} item lines")
        yield from self._columns("item", survey.item)

    def _context(self) -> Iterator[str]:
        columns = list(self._columns("context", self.survey.context))
        if not columns and not self.position:
            return
        yield "[context]"
        yield from columns
        if self.position:
            largest = max(self.survey.page_sizes)
            first, last = (self.survey.rate_at(p)[1] for p in (0, largest - 1))
            yield _line(
                'position = { type = "number", serve_as = 1 }',
                f"up to {largest} items a page, installed {100 * first:.3g} % at the first, {100 * last:.3g} % at the "
                "last place: learned as logged, held still when ranking",
            )

    def _columns(self, origin: str, seen: Origin) -> Iterator[str]:
        for name, found in self.guesses[origin].items():
            if reserved := self._reserved(origin, name):
                yield f"# {quoted(name)}: {reserved}"
            elif found.kind is None:
                yield f"# {quoted(name)}: {found.why}"
            elif found.bands and self._banded(origin, name):
                bands = ", ".join(f"{cut:.10g}" for cut in found.bands)
                yield _line(f'{toml_key(name)} = {{ type = "number", bands = [{bands}] }}', found.why)
            else:
                yield _line(f'{toml_key(name)} = "{found.kind}"', found.why)
        if seen.left_out:
            yield f"# more than {len(seen.columns)} columns came: the rest was left out"

    def _reserved(self, origin: str, name: str) -> str:
        if name == "id" and origin != "context":
            return f"the id of the {origin} is meant by `id`"
        if name == "position" and origin == "context":
            return "the place on the page is meant by `position`"
        return "" if name else "a column needs a name"

    def _banded(self, origin: str, name: str) -> bool:
        return f"{name}_band" not in self.guesses[origin]

    def _usable(self, origin: str) -> Iterator[tuple[str, Guess]]:
        for name, found in self.guesses[origin].items():
            if found.kind is not None and not self._reserved(origin, name):
                yield name, found

    def _categories(self, *origins: str) -> list[Named]:
        """Columns that crosses can name, bands among them, few values first."""
        found: list[Named] = []
        for origin in origins:
            for name, one in self._usable(origin):
                if one.kind != "number":
                    found.append(Named(f"{origin}.{name}", one.distinct))
                elif one.bands and self._banded(origin, name):
                    found.append(Named(f"{origin}.{name}_band", band_count(one.bands)))
        return sorted(found, key=lambda each: each.values)

    # --- what is made of them ------------------------------------------------------------------------------------

    def _item_kind(self) -> Named | None:
        """What tastes go by: the finest category of items below `MEDIUM` values; bands where there's no other."""
        most = min(MEDIUM, self.survey.items_shown // 2)
        fit = [each for each in self._categories("item") if 2 <= each.values <= most]
        return max(fit, key=lambda each: (not each.name.endswith("_band"), each.values), default=None)

    def _groups(self) -> list[Named]:
        """Categories of users and requests that are crossed with items: there must be pages enough for each pair."""
        shown, items = self.survey.shown, max(1, self.survey.items_shown)
        fit = [each for each in self._categories("user", "context") if 2 <= each.values <= SMALL]
        return [each for each in fit if shown >= PAGES_EACH * each.values * items][-CROSSES:]

    def _statistics(self) -> Iterator[str]:
        survey = self.survey
        prior = _prior(survey.base_rate)
        rate = f"base rate {share(survey.labels, survey.shown)}, which weighs like {prior} shows"
        yield "[statistics]"
        yield _line(f'item_rate = {{ kind = "rate", by = ["item.id"], prior = {prior} }}', rate)
        yield _line('item_seen = { kind = "count", by = ["item.id"] }', "how sure its rate is")
        if self.many_pages:
            each = survey.pages / max(1, survey.users_shown)
            yield _line(
                f'user_rate = {{ kind = "rate", by = ["user.id"], prior = {prior} }}', f"{each:.0f} pages a user"
            )
            yield _line('user_seen = { kind = "count", by = ["user.id"] }', "new or known")
            yield _line('user_last = { kind = "since", by = ["user.id"] }', "comes back after how long")
        else:
            yield f"# no statistics by user: {survey.users_shown:,} users have only {survey.pages:,} pages"
        kind = self._item_kind()
        names = {"item_rate", "item_seen", "user_rate", "user_seen", "user_last", "alike"}
        if kind and self.many_pages:
            names.add("taste")
            why = f"what of {kind.short} ({kind.values:,} values) this user likes"
            yield _line(_residual("taste", "user.id", kind.name, prior), why)
        for group in self._groups():
            name = f"{group.short}_taste"
            if name not in names:
                names.add(name)
                yield _line(
                    _residual(name, group.name, "item.id", prior),
                    f"{group.values} values by {survey.items_shown:,} items",
                )
        if self.history:
            yield _line(
                f'alike = {{ kind = "affinity", of = "item.id", to = "user.{self.history}" }}',
                "who installed that installs this",
            )

    def _wide(self) -> Iterator[str]:
        features = ["user.id"] * self.many_pages + ["item.id"]
        features += [each.name for each in self._categories("user", "item", "context") if each.values <= MEDIUM][:10]
        crosses = [(f"user.{self.history}", "item.id")] * bool(self.history)
        kind = self._item_kind()
        if kind and self.many_pages:
            crosses.append(("user.id", kind.name))
        crosses += [(group.name, "item.id") for group in self._groups()]
        yield _line("[wide]", "memorises")
        yield "alpha = 0.05"
        if self.rare:
            yield _line("bias_alpha = 1.0", "labels are rare: the bias has a long way to go")
        yield "l1 = 0.1"
        yield f"features = [{', '.join(map(toml_text, features))}]"
        if not crosses:
            return
        yield "crosses = ["
        yield from (f"  [{toml_text(one)}, {toml_text(other)}]," for one, other in crosses)
        yield "]"

    def _deep(self) -> Iterator[str]:
        features, most = [], 0
        for origin in ("user", "item", "context"):
            for name, found in self._usable(origin):
                features.append(f"{origin}.{name}")
                most = max(most, found.distinct if found.kind != "number" else 0)
        features += (
            [f"user.{self.history}"] * bool(self.history) + ["context.position"] * self.position + ["statistics.*"]
        )
        most = max(most, self.survey.items_shown if self.history else 0)
        yield _line("[deep]", "generalises; ids are the wide part's: embeddings of them memorise")
        yield f"features = [{', '.join(map(toml_text, features))}]"
        dim = 32 if most > MEDIUM else 16 if most > SMALL else 8
        yield _line(f"embedding_dim = {dim}", f"its largest column has {most:,} values")
        if self.survey.labels < FEW_LABELS:
            yield _line(
                "learning_rate = 0.005", f"only {self.survey.labels} installs to learn from (the default is 0.02)"
            )
        if self.survey.shown < FEW_SHOWN:
            why = f"only {self.survey.shown:,} items shown: ids get a row early (the default is 10)"
            yield _line("min_count = 2", why)

    def _label(self) -> Iterator[str]:
        survey = self.survey
        p50, p95 = survey.delays.quantile(0.5), survey.delays.quantile(0.95)
        window = rounded_up(p95) if survey.delays.count else "30m"
        yield "[label]"
        if self._eager():
            yield _line('policy = "eager"', "an install is told at once, the rest when the window closes")
        else:
            why = f"a window of {window} would hold negatives back for so long: told at once, corrected by installs"
            yield _line('policy = "fake_negative"', why)
        if survey.delays.count:
            said = f"installs come {spoken(p50)} (p50), {spoken(p95)} (p95) after their page"
            yield _line(f'window = "{window}"', said + _unmatched(survey))
        else:
            yield _line(f'window = "{window}"', "a guess: no install has a page" + _unmatched(survey))
        yield self._lateness()

    def _eager(self) -> bool:
        return self.survey.delays.quantile(0.95) <= EAGER_MS

    def _publish(self) -> Iterator[str]:
        if self._eager():
            return
        yield "[publish]"
        yield _line(
            f"gate = {{ calibration = [{GATE_LOW}, {GATE_HIGH}] }}",
            "wider than the default 0.8 to 1.25: installs that come now are of older pages, so when traffic changes "
            "they don't fit the predictions beside them",
        )

    def _lateness(self) -> str:
        behind, p99 = self.survey.behind, self.survey.behind.quantile(0.99)
        if not behind.count:
            return _line('lateness = "0s"', "in order of event time")
        what = f"{behind.count:,} events are older than one before them, by up to {spoken(behind.high)}"
        if p99 > LATENESS_MS:
            return _line('lateness = "0s"', f"{what}: sort the file by time")
        return _line(f'lateness = "{rounded_up(p99)}"', what)

    def _slices(self) -> Iterator[str]:
        fit = [each for each in self._categories("context", "user") if 2 <= each.values <= SMALL]
        fit = [each for each in fit if not each.name.endswith("_band")]
        if not fit:
            return
        origin, name = fit[0].name.split(".", 1)
        common = getattr(self.survey, origin).columns[name].common(SLICES)
        values = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v, _ in common]
        whole = [value for value in dict.fromkeys(values) if value]
        values = [value for value in whole if len(f"{fit[0].name}={value}".encode()) <= SLICE_BYTES_MAX]
        if values:
            yield _line("[slices]", "figures are told for these too")
            yield f"{toml_text(fit[0].name)} = [{', '.join(map(toml_text, values))}]"


def _unmatched(survey: Survey) -> str:
    lost = survey.without_page
    return f"; {lost:,} of {survey.installs:,} installs have no page" if lost else ""


def _residual(name: str, one: str, other: str, prior: int) -> str:
    return f'{name} = {{ kind = "residual", by = [{toml_text(one)}, {toml_text(other)}], prior = {prior} }}'


def _prior(rate: float) -> int:
    """Shows that hold about two installs, to one digit, 5 to 200."""
    wanted = min(200.0, max(5.0, 2 / rate)) if rate else 10.0
    return int(float(f"{wanted:.1g}"))


def _line(text: str, why: str) -> str:
    return f"{text.ljust(COMMENT_AT)}  # {why}"
