// Slices and dead letters as tables.

import { clock, fixed, make, number, table } from "./dom.js";
import { ask } from "./server.js";

export function showSlices(panel, rows) {
  if (!rows.length) {
    panel.replaceChildren(make("p", { class: "quiet" }, "The learner exports no figures yet."));
    return;
  }
  const cells = rows.map(([slice, window, examples, auc, loss, calibration, rate]) =>
    [slice, window, number(examples), fixed(auc, 4), fixed(loss, 4), fixed(calibration, 3), fixed(rate, 4)]);
  panel.replaceChildren(table("Figures by slice: each example is predicted just before it is learned",
    ["slice", "window", "examples", "AUC", "log loss", "calibration", "labels"], cells, "numbers two"));
}

export class DeadLetters {
  constructor(panel) {
    this.panel = panel;
    this.isAsking = false;
    this.isStale = true;
  }

  // There are more, or the tab was opened. Nothing is read while the tab is closed.
  async changed(isOpen) {
    this.isStale = true;
    if (!isOpen || this.isAsking) return;
    this.isAsking = true;
    try {
      while (this.isStale) {
        this.isStale = false;
        this.show(await ask("/api/dead-letters"));
      }
    } catch (error) {
      this.panel.replaceChildren(make("p", { class: "quiet" }, error.message));
    } finally {
      this.isAsking = false;
    }
  }

  show(newest) {
    if (!newest.length) {
      this.panel.replaceChildren(make("p", { class: "quiet" }, "No dead letters: every event could be read."));
      return;
    }
    const kinds = new Map();
    for (const { kind, topic } of newest) kinds.set(`${topic}: ${kind}`, (kinds.get(`${topic}: ${kind}`) ?? 0) + 1);
    const counts = [...kinds].sort((a, b) => b[1] - a[1]).map(([kind, count]) => [kind, number(count)]);
    const rows = newest.map((one) => [clock(one.time_ms), one.source, one.error, one.message, one.replayed ? "replayed" : ""]);
    this.panel.replaceChildren(
      table("The newest dead letters by reason", ["reason", "count"], counts, "numbers"),
      table("The newest dead letters", ["time", "source", "error", "message", ""], rows));
  }
}
