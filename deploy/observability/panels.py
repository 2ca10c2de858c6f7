"""What the four dashboards show: panels in rows, their PromQL, units. `dashboards.py` writes Grafana's JSON from it."""

from collections.abc import Mapping
from typing import Final, NamedTuple

RATE: Final = "$__rate_interval"  # Grafana's: at least four scrapes
ROOMS: Final = 'job=~"joiner|learner|ranker"'
WINDOW: Final = 'window!="lifetime"'  # the last 2,000 examples, 1,000 pages or sessions


class Panel(NamedTuple):
    """One plot, or with `is_number` its last values. `queries`: PromQL by legend. `note`: how to read it."""

    title: str
    unit: str
    queries: Mapping[str, str]
    note: str = ""
    is_number: bool = False


class Board(NamedTuple):
    """One dashboard; `rows`: panels by the title of their row."""

    title: str
    rows: Mapping[str, tuple[Panel, ...]]


def rate(metric: str, by: str = "") -> str:
    """Events per second, summed over all but the labels `by`."""
    return f"sum by ({by}) (rate({metric}[{RATE}]))" if by else f"sum(rate({metric}[{RATE}]))"


def quantiles(metric: str, by: str = "") -> dict[str, str]:
    """Median and 99th percentile of a histogram, over all rooms."""
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    return {
        f"p{q}{legend}": f"histogram_quantile({q / 100:g}, sum by ({labels}) (rate({metric}_bucket[{RATE}])))"
        for q in (50, 99)
    }


def named(name: str, queries: Mapping[str, str]) -> dict[str, str]:
    """The same queries, with a name before each legend."""
    return {f"{name} {legend}": query for legend, query in queries.items()}


LOOP: Final = Board(
    "Thalweg: the loop",
    {
        "Now": (
            Panel("Rooms that answer", "short", {"{{job}}": f"sum by (job) (up{{{ROOMS}}})"}, is_number=True),
            Panel("Freshness", "s", quantiles("thalweg_ranker_freshness_seconds"), is_number=True,
                  note="From an install's ingest to the first reply that has learned it."),
            Panel("Live version", "none", {"{{model}}": "max by (model) (thalweg_ranker_version)"}, is_number=True),
            Panel("Alerts that fire", "short", {"{{alertname}}": 'sum by (alertname) (ALERTS{alertstate="firing"})'},
                  is_number=True, note="docs/runbook/ has a page for each."),
        ),
        "Events": (
            Panel("Events joined", "cps", {"{{kind}}": rate("thalweg_joiner_events_total", "kind")}),
            Panel("Examples emitted", "cps", {"{{reason}}": rate("thalweg_joiner_examples_total", "reason")}),
            Panel("Learned and answered", "cps", {
                "examples learned": rate("thalweg_learner_examples_total"),
                "replies": rate("thalweg_ranker_replies_total"),
            }, note="A learner that starts again takes its count from its checkpoint: one peak that isn't work."),
            Panel("What became of events", "cps", {"{{outcome}}": rate("thalweg_joiner_outcomes_total", "outcome")}),
            Panel("Open pages", "short", {"pages": "sum(thalweg_joiner_open_pages)"}),
            Panel("Dead letters in 10 minutes", "short",
                  {"{{job}}: {{reason}}": "job_reason:thalweg_dead_letters:increase10m"}),
        ),
        "Lag": (
            Panel("Age of the oldest record that waits", "s", {"{{topic}}": "job_topic:thalweg_lag_seconds:max"}),
            Panel("Records that wait", "short", {
                "events": "sum(thalweg_joiner_consumer_lag_records)",
                "examples": "sum(thalweg_learner_lag_records)",
                "rank.requests": "sum(thalweg_ranker_request_lag_records)",
                "items": "sum(thalweg_ranker_item_lag_records)",
            }),
            Panel("From append to examples", "s", quantiles("thalweg_joiner_join_delay_seconds")),
        ),
        "Freshness": (
            Panel("Wide part and statistics", "s",
                  named("servable", quantiles("thalweg_ranker_servable_seconds"))
                  | named("in a reply", quantiles("thalweg_ranker_freshness_seconds"))),
            Panel("Deep part", "s", quantiles("thalweg_ranker_freshness_deep_seconds")),
            Panel("Age of the newest learned label", "s",
                  {"{{instance}} {{model}}": "thalweg_ranker_staleness_seconds"},
                  note="Without new labels it grows, and that is no fault."),
        ),
        "Versions": (
            Panel("Published and live", "none", {
                "published": "max(thalweg_learner_published_version)",
                "{{instance}} {{model}}": "thalweg_ranker_version",
            }),
            Panel("Swaps", "cps", {"{{instance}}": rate("thalweg_ranker_swaps_total", "instance")}),
            Panel("Building a version", "s", quantiles("thalweg_ranker_build_seconds")),
            Panel("Rejected by rankers in 10 minutes", "short",
                  {"{{instance}}": "increase(thalweg_ranker_rejected_versions_total[10m])"}),
        ),
    },
)  # fmt: skip

MODEL: Final = Board(
    "Thalweg: the model",
    {
        "Predicted before learned": (
            Panel("AUC", "none", {"{{window}}": 'thalweg_learner_auc{slice="all"}'}),
            Panel("Log loss", "none", {"{{window}}": 'thalweg_learner_log_loss{slice="all"}'}),
            Panel("Normalised entropy", "none", {"{{window}}": 'thalweg_learner_normalised_entropy{slice="all"}'},
                  note="Below 1 the model is better than always predicting the base rate."),
            Panel("Calibration", "none", {"{{window}}": 'thalweg_learner_calibration{slice="all"}'},
                  note="Mean prediction / mean label. Few positives make it noisy."),
            Panel("AUC within pages and sessions", "none",
                  {"{{group}}": f'thalweg_learner_ranking_auc{{slice="all", {WINDOW}}}'}),
            Panel("Positives of the window", "short", {"{{slice}}": "slice:thalweg_positives:count"}),
        ),
        "By slice, of the last examples": (
            Panel("AUC by slice", "none", {"{{slice}}": f"thalweg_learner_auc{{{WINDOW}}}"}),
            Panel("Log loss by slice", "none", {"{{slice}}": f"thalweg_learner_log_loss{{{WINDOW}}}"}),
            Panel("Calibration by slice", "none", {"{{slice}}": f"thalweg_learner_calibration{{{WINDOW}}}"}),
            Panel("Base rate by slice", "percentunit", {"{{slice}}": f"thalweg_learner_base_rate{{{WINDOW}}}"}),
        ),
        "Gate": (
            Panel("Last verdict", "bool_yes_no", {"passed": "min(thalweg_learner_gate_passed)"}, is_number=True),
            Panel("Refused versions in 10 minutes", "short",
                  {"{{cause}}": "increase(thalweg_learner_refused_versions_total[10m])"}),
            Panel("What it measured", "none", {"{{name}}": "thalweg_learner_gate_measure"}),
            Panel("Roll backs in an hour", "short", {"roll backs": "increase(thalweg_learner_roll_backs_total[1h])"}),
        ),
        "Held-out pages": (
            Panel("Verdicts in an hour", "short",
                  {"{{outcome}}": "increase(thalweg_learner_held_out_verdicts_total[1h])"}),
            Panel("Live model and anchor", "none", {"{{figure}}, {{model}}": "thalweg_learner_held_out"}),
            Panel("Difference and standard error", "none",
                  {"{{figure}}, {{of}}": "thalweg_learner_held_out_difference"}),
            Panel("Judge's window", "short", {"{{of}}": "thalweg_learner_held_out_window"}),
        ),
        "Drift and new models": (
            Panel("Drift / bound of an alarm", "none", {"{{slice}}": "thalweg_learner_drift"}),
            Panel("Drift alarms in an hour", "short",
                  {"{{slice}}": "increase(thalweg_learner_drift_alarms_total[1h])"}),
            Panel("Publishing is frozen", "bool_yes_no",
                  {"frozen": "max(thalweg_learner_publishing_frozen)"}, is_number=True),
            Panel("New models in a day", "short", {"{{outcome}}": "increase(thalweg_learner_retrains_total[1d])"}),
        ),
        "Tables": (
            Panel("Keys", "short", {"{{part}}": "thalweg_learner_keys"}),
            Panel("Evicted keys", "cps",
                  {"{{part}}, {{reason}}": rate("thalweg_learner_evicted_keys_total", "part, reason")}),
        ),
    },
)  # fmt: skip

SERVING: Final = Board(
    "Thalweg: serving",
    {
        "Requests": (
            Panel("Replies", "reqps", {"{{instance}}": rate("thalweg_ranker_replies_total", "instance")}),
            Panel("Errors", "reqps", {"{{kind}}": rate("thalweg_ranker_errors_total", "kind")},
                  note="`shed` and `expired` mean too few rankers, or callers that ask late."),
            Panel("Share of errors", "percentunit", {
                "{{kind}}": f"{rate('thalweg_ranker_errors_total', 'kind')} / ignoring (kind) group_left () "
                + rate("thalweg_ranker_replies_total"),
            }),
            Panel("Incomplete replies", "reqps", {"{{note}}": rate("thalweg_ranker_incomplete_replies_total", "note")}),
        ),
        "Latency by leg": (
            Panel("From arrival to reply", "s", quantiles("thalweg_ranker_answer_seconds")),
            Panel("From Kafka read to reply", "s", quantiles("thalweg_ranker_handle_seconds")),
            Panel("Reading profiles from Redis", "s", quantiles("thalweg_ranker_profile_read_seconds")),
            Panel("Ranking", "s", quantiles("thalweg_ranker_rank_seconds")),
        ),
        "Queue": (
            Panel("Requests that wait", "short", {"{{instance}}": "thalweg_ranker_queue_requests"}),
            Panel("Age of the oldest that waits", "s", {"{{instance}}": "thalweg_ranker_queue_age_seconds"}),
            Panel("Clock skew to the broker", "s", {"{{instance}}": "thalweg_ranker_clock_skew_seconds"}),
        ),
        "HTTP": (
            Panel("Requests over HTTP", "reqps",
                  {"{{route}} {{status}}": rate("thalweg_ranker_http_requests_total", "route, status")}),
            Panel("Latency over HTTP", "s", quantiles("thalweg_ranker_http_seconds", "route")),
            Panel("Connections", "short", {"{{instance}}": "thalweg_ranker_http_connections"}),
            Panel("Events over HTTP", "cps", {"{{status}}": rate("thalweg_ranker_http_events_total", "status")}),
        ),
        "Candidates": (
            Panel("Items shown, by source", "cps", {"{{source}}": rate("thalweg_ranker_source_items_total", "source")},
                  note="Of retrieved candidates; those that requests name have no source."),
            Panel("Items known", "short", {"{{instance}}": "thalweg_ranker_items"}),
            Panel("Explored positions", "cps", {
                "by rules of exploration": rate("thalweg_ranker_exploring_positions_total"),
                "not the best candidate": rate("thalweg_ranker_explored_positions_total"),
            }),
        ),
    },
)  # fmt: skip

MACHINES: Final = Board(
    "Thalweg: machines",
    {
        "Rooms": (
            Panel("CPU", "percentunit", {"{{job}} {{instance}}": f"rate(process_cpu_seconds_total{{{ROOMS}}}[{RATE}])"},
                  note="1 is one core. Without child processes: a ranker's builder, a learner's retrain."),
            Panel("Resident memory", "bytes", {"{{job}} {{instance}}": f"process_resident_memory_bytes{{{ROOMS}}}"},
                  note="Without child processes."),
            Panel("Open files", "short", {"{{job}} {{instance}}": f"process_open_fds{{{ROOMS}}}"}),
            Panel("Running since", "s", {"{{job}} {{instance}}": f"time() - process_start_time_seconds{{{ROOMS}}}"}),
            Panel("Garbage collections of everything", "cps", {
                "{{job}} {{instance}}": f'rate(python_gc_collections_total{{{ROOMS}, generation="2"}}[{RATE}])',
            }),
            Panel("Scrapes", "s", {"{{job}} {{instance}}": f"scrape_duration_seconds{{{ROOMS}}}"}),
        ),
        "Redis and disk": (
            Panel("Redis", "bytes", {
                "used": "thalweg_learner_redis_used_bytes", "limit": "thalweg_learner_redis_limit_bytes",
            }),
            Panel("Redis, share", "percentunit", {"used": "thalweg_redis_used:ratio"}),
            Panel("Newest checkpoint", "bytes", {"file": "thalweg_learner_checkpoint_bytes"}),
            Panel("Checkpoints", "s",
                  named("written", quantiles("thalweg_learner_checkpoint_seconds"))
                  | named("pause", quantiles("thalweg_learner_checkpoint_pause_seconds"))),
        ),
        "Joiners": (
            Panel("State", "bytes", {"{{instance}}": "sum by (instance) (thalweg_joiner_state_bytes)"}),
            Panel("Records read again", "cps", {
                "after a restart": rate("thalweg_joiner_rebuilt_records_total"),
                "not cached": rate("thalweg_joiner_reread_records_total"),
            }),
            Panel("Rebalances in an hour", "short", {"{{instance}}": "increase(thalweg_joiner_rebalances_total[1h])"}),
            Panel("Outages of Kafka in an hour", "short",
                  {"{{instance}}": "increase(thalweg_joiner_outages_total[1h])"}),
        ),
    },
)  # fmt: skip

BOARDS: Final = {"loop": LOOP, "model": MODEL, "serving": SERVING, "machines": MACHINES}
