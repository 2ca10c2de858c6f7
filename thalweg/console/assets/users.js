// A user: their page now, each item explained, their history; in a demo an install, and what it changes.

import { byId, draw, duration, fixed, make, number, say, set, table, toast } from "./dom.js";
import { ask, send } from "./server.js";

const BAR = 220; // width of an item's bars
const SOME = 4; // strongest terms that are named
const K = 10;

export class Users {
  constructor() {
    this.config = {};
    this.before = null; // item → rank, of the page that was shown last
    byId("search").addEventListener("submit", (event) => { event.preventDefault(); this.before = null; this.search(); });
  }

  configure(config) {
    this.config = config;
    const context = Object.entries(config.context ?? {}).map((pair) => pair.join("=")).join(" ");
    if (!byId("context").value) byId("context").value = context;
  }

  async opened() {
    if (byId("recent").children.length) return;
    try {
      const users = await ask("/api/users");
      byId("recent").replaceChildren(...users.map((value) => make("option", { value })));
      if (users.length) say(byId("user-status"), `Seen lately: ${users.slice(0, 6).join(", ")}`);
    } catch (error) {
      say(byId("user-status"), error.message);
    }
  }

  context() {
    const pairs = byId("context").value.split(/\s+/).filter((text) => text.includes("="));
    return Object.fromEntries(pairs.map((text) => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)]));
  }

  async search(note = "") {
    const user = byId("user").value;
    say(byId("user-status"), `Asking for ${user}'s page`);
    const query = new URLSearchParams({ k: K });
    for (const [name, value] of Object.entries(this.context())) query.set(`context.${name}`, value);
    try {
      const page = await ask(`/api/users/${encodeURIComponent(user)}?${query}`);
      this.show(user, page);
      say(byId("user-status"), note || `Version ${page.version}, made ${duration(page.version_age_ms)} ago, of ${number(page.examples)} examples; ${number(page.scored)} candidates scored.`);
    } catch (error) {
      byId("user-page").replaceChildren();
      say(byId("user-status"), error.message);
    }
  }

  show(user, page) {
    const most = Math.max(0.01, ...page.items.flatMap((one) => [one.bias, one.wide, one.deep].map(Math.abs)));
    const items = page.items.map((one, i) => this.item(user, one, i + 1, most));
    const removed = Object.entries(page.removed).map(([rule, count]) => `${rule} ${count}`).join(", ");
    const list = make("ol", { class: "page", "aria-label": `Page of ${user}` }, items);
    const notes = [removed && `Candidates that rules removed: ${removed}.`, page.notes.length && `Notes: ${page.notes.join(", ")}.`];
    byId("user-page").replaceChildren(
      make("div", { class: "columns" },
        make("div", {}, make("h3", {}, "Page now"), legend(), list, make("p", { class: "quiet" }, notes.filter(Boolean).join(" "))),
        make("div", {}, make("h3", {}, "History, newest first"), this.history(page.history))));
    this.before = new Map(page.items.map((one, i) => [one.item, i + 1]));
  }

  item(user, one, rank, most) {
    const was = this.before?.get(one.item);
    const moved = this.before && was !== rank ? (was ? (was > rank ? `▲ ${was - rank}` : `▼ ${rank - was}`) : "new") : "";
    const terms = [...one.wide_terms.map((term) => [term.name, term.weight]), ...one.deep_terms.map((term) => [`${term.column}=${term.value}`, term.contribution])]
      .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    const rows = terms.map(([name, weight]) => [name, signed(weight)]);
    const boosts = Object.entries(one.boosts).map(([rule, value]) => `${rule} ${signed(value)}`).join(", ");
    const source = one.source ? `by ${one.source} (${one.source_rank})` : "named by the request";
    const facts = [`p ${fixed(one.score, 3)}`, source, boosts && `boosts ${boosts}`, one.propensity !== null && one.propensity !== undefined && `shown with probability ${fixed(one.propensity, 3)}`];
    return make("li", { class: moved ? "moved" : "" },
      make("div", { class: "head" }, make("b", {}, one.title || one.item), moved ? make("span", { class: "mark moved" }, moved) : null,
        this.config.demo ? make("button", { type: "button", "aria-label": `Install ${one.title || one.item}`, onclick: (event) => this.install(user, one, event.target) }, "Install") : null),
      make("p", { class: "quiet" }, facts.filter(Boolean).join(" · ")),
      bars(one, most),
      make("details", {}, make("summary", {}, `${terms.slice(0, SOME).map(([name, weight]) => `${name} ${signed(weight)}`).join(", ") || "no terms"}`),
        table(`Terms of ${one.title || one.item}`, ["term", "adds"], rows, "numbers")));
  }

  history(history) {
    if (history === null) return make("p", { class: "quiet" }, "It isn't known: Redis has no copy of it.");
    if (!history.length) return make("p", { class: "quiet" }, "Nothing is installed yet.");
    return make("ol", { class: "history" }, history.map(({ item, title }) => make("li", {}, title || item)));
  }

  async install(user, one, button) {
    button.disabled = true;
    const title = one.title || one.item;
    say(byId("user-status"), `${user} installs ${title}; waiting until a page has learned it`);
    try {
      const { served_ms: ms, version } = await send("/api/install", { user, item: one.item, k: K, context: this.context() }, false);
      await this.search(`${user} installed ${title}: ${number(ms)} ms later version ${version} had learned it and answered. What moved is marked.`);
    } catch (error) {
      button.disabled = false;
      say(byId("user-status"), error.message);
      toast(error.message, true);
    }
  }
}

const signed = (value) => `${value < 0 ? "−" : "+"}${fixed(Math.abs(value), 2)}`;

function legend() {
  return make("p", { class: "legend", "aria-hidden": "true" }, ["bias", "wide", "deep"].map((part) => make("span", { class: part }, part)));
}

// Bias, wide and deep part of the logit, each from the middle: right adds, left takes away.
function bars(one, most) {
  const middle = BAR / 2;
  const svg = draw("svg", { viewBox: `0 0 ${BAR} 24`, class: "bars", role: "img" });
  set(svg, "aria-label", `logit ${signed(one.logit)}: bias ${signed(one.bias)}, wide ${signed(one.wide)}, deep ${signed(one.deep)}`);
  ["bias", "wide", "deep"].forEach((part, i) => {
    const width = (Math.abs(one[part]) / most) * (middle - 2);
    svg.append(draw("rect", { x: one[part] < 0 ? middle - width : middle, y: 1 + i * 8, width: Math.max(0.5, width), height: 6, class: part }));
  });
  svg.append(draw("path", { d: `M${middle} 0V24`, class: "grid" }));
  return svg;
}
