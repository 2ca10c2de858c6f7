// Versions as a timeline, and what a person may decide: pin one, roll back, serve the newest again.

import { byId, clock, draw, fixed, make, number, say, toast } from "./dom.js";
import { hasToken, send } from "./server.js";

const WIDTH = 1000;
const SPAN_MS = 300_000;
const SHOWN = 40;

// Resolves to whether the person agrees.
export function confirmed(title, text, yes) {
  const dialog = byId("confirm");
  say(byId("confirm-title"), title);
  say(byId("confirm-text"), text);
  say(byId("confirm-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

export class Versions {
  constructor() {
    this.rows = new Map();
    byId("roll-back").addEventListener("click", () => this.rollBack());
    byId("unpin").addEventListener("click", () => this.unpin());
  }

  showServing(sections) {
    const { head = 0, pinned = 0, error } = sections.versions ?? {};
    const serving = pinned ? `Version ${pinned} is pinned; the newest is ${head}.` : head ? `Rankers follow the newest version, ${head}.` : `Nothing of ${sections.config?.model} is published yet.`;
    say(byId("serving"), error ?? serving);
    byId("unpin").hidden = !pinned;
  }

  show(entries, sections) {
    const { pinned = 0 } = sections.versions ?? {};
    this.live = sections.live ?? [];
    const newest = entries.slice(-SHOWN).reverse();
    const list = byId("timeline");
    const wanted = newest.map((entry) => this.row(entry, pinned));
    wanted.forEach((node, i) => { if (list.children[i] !== node) list.insertBefore(node, list.children[i] ?? null); });
    while (list.children.length > wanted.length) list.lastChild.remove();
    for (const entry of this.rows.keys()) if (!entries.includes(entry)) this.rows.delete(entry);
  }

  row(entry, pinned) {
    const marks = [];
    if (entry.kind === "published") {
      if (this.live.includes(entry.version)) marks.push("live");
      if (pinned === entry.version) marks.push("pinned");
    }
    let row = this.rows.get(entry);
    if (!row) {
      row = { marks: make("span", { class: "marks" }), node: null };
      row.node = make("li", { class: entry.kind }, make("time", {}, clock(entry.time_ms)), words(entry), row.marks, this.button(entry));
      this.rows.set(entry, row);
    }
    if (row.marks.dataset.now !== marks.join()) {
      row.marks.dataset.now = marks.join();
      row.marks.replaceChildren(...marks.map((mark) => make("span", { class: `mark ${mark}` }, mark)));
    }
    return row.node;
  }

  button(entry) {
    if (entry.kind !== "published") return null;
    return make("button", { type: "button", class: "pin", "aria-label": `Pin version ${entry.version}`, onclick: () => this.pin(entry) }, "Pin…");
  }

  showStrip(entries) {
    const svg = byId("strip");
    const end = Date.now();
    const marks = [draw("path", { class: "grid", d: `M0 26H${WIDTH}` })];
    for (const entry of entries) {
      const x = WIDTH - 6 - ((end - entry.time_ms) / SPAN_MS) * WIDTH;
      if (x < 0) continue;
      const at = x.toFixed(1);
      if (entry.kind === "published") marks.push(draw("circle", { cx: at, cy: 26, r: 4, class: "published" }));
      else if (entry.kind === "refused" || entry.kind === "rolled_back") marks.push(draw("path", { d: `M${at} 8l5 9h-10z`, class: "refused" }));
      else marks.push(draw("path", { d: `M${at} 46v-14h9v7h-9`, class: "pinned" }));
    }
    svg.replaceChildren(...marks);
  }

  async pin({ version }) {
    await this.decide(`Pin version ${version}?`, "Rankers serve it until it is unpinned. Newer versions are published, but not served.",
      "Pin it", "/api/versions/pin", { version }, `Version ${version} is pinned.`);
  }

  async rollBack() {
    await this.decide("Roll back?", "Rankers serve the version before the one that is served now, until it is unpinned.",
      "Roll back", "/api/versions/roll-back", {}, "Rolled back.");
  }

  async unpin() {
    await this.decide("Serve the newest version again?", "What is pinned now is unpinned.", "Serve the newest", "/api/versions/pin", { version: 0 }, "The newest version is served again.");
  }

  async decide(title, text, yes, path, body, done) {
    const opener = document.activeElement;
    if (!hasToken()) { toast("This needs a token: press “Read-only” above.", true); return; }
    const agreed = await confirmed(title, text, yes);
    opener?.focus();
    if (!agreed) return;
    try {
      await send(path, body);
      toast(done);
    } catch (error) {
      toast(error.message, true);
    }
  }
}

function words(entry) {
  if (entry.kind === "published") {
    return make("span", {}, make("b", {}, `version ${entry.version}`), ` published: ${number(entry.examples)} examples, AUC ${fixed(entry.auc, 4)}, log loss ${fixed(entry.log_loss, 4)}, ${number(entry.installs)} new installs`);
  }
  if (entry.kind === "refused") {
    const times = entry.count > 1 ? ` ${entry.count} times` : "";
    return make("span", {}, make("b", {}, `refused${times}: ${entry.cause}`), entry.reason ? ` ${entry.reason}` : "");
  }
  if (entry.kind === "rolled_back") return make("span", {}, make("b", {}, "learning was rolled back"), ` ${entry.reason}`);
  return make("b", {}, entry.kind === "pinned" ? `version ${entry.version} was pinned` : "unpinned: the newest is served");
}
