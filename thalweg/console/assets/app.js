// The page: takes frames from the stream and gives each part what is its own.

import { byId, fixed, make, number, say, seldom, set, duration, toast } from "./dom.js";
import { hasToken, onToken, setToken, watch } from "./server.js";
import { sayLoop, showLoop } from "./loop.js";
import { Plots } from "./plots.js";
import { Versions } from "./versions.js";
import { Users } from "./users.js";
import { showSlices, DeadLetters } from "./tables.js";

const STATES = { live: "live", lost: "connection lost", paused: "paused" };
const state = { sections: {}, points: [], entries: [] };
// Whatever changes is laid out and painted, and all that changes at once costs as much as one of it.
const SHOWN_EVERY_MS = 2000;
const DRAWN_EVERY_MS = 7000; // what moves by little: plots, the strip, the list of versions
const changed = new Set(); // sections, since they were shown
const plots = new Plots(byId("plots"));
const versions = new Versions();
const users = new Users();
const dead = new DeadLetters(byId("panel-dead"));
const draw = seldom(DRAWN_EVERY_MS, () => {
  if (state.points.length) plots.draw(state.points);
  sayLoop(state.sections);
  versions.show(state.entries, state.sections);
  versions.showStrip(state.entries);
});

function showAll(isUrgent) {
  const { sections, points } = state;
  if (changed.has("config")) configure(sections.config);
  showLoop(sections);
  if (points.length) plots.say(points[points.length - 1]);
  showFigures(sections);
  if (changed.has("versions")) versions.showServing(sections);
  draw(isUrgent);
  if (changed.has("slices") && !byId("panel-slices").hidden) showSlices(byId("panel-slices"), sections.slices);
  if (changed.has("dead")) {
    say(byId("dead-count"), sections.dead ? number(sections.dead) : "");
    dead.changed(!byId("panel-dead").hidden);
  }
  changed.clear();
}

const show = seldom(SHOWN_EVERY_MS, showAll);

// What people wait for, or must see: rooms that end or start, and what is decided.
const pressing = ({ rooms = [], versions: { pinned } = {} }) => JSON.stringify([rooms.map((one) => one.slice(0, 3)), pinned]);

function take(name, frame) {
  const before = pressing(state.sections);
  if (name === "full") Object.assign(state, { sections: {}, points: [], entries: [] });
  Object.assign(state.sections, frame.sections);
  for (const one of Object.keys(frame.sections)) changed.add(one);
  state.points = state.points.concat(frame.points).slice(-300);
  state.entries = state.entries.concat(frame.entries).slice(-120);
  const isDecided = frame.entries.some((entry) => entry.kind !== "published");
  show(name === "full" || isDecided || pressing(state.sections) !== before);
}

function configure(config) {
  say(byId("model"), config.model ?? "");
  document.title = `${config.model ?? ""} · Thalweg console`;
  users.configure(config);
}

const FIGURES = [
  ["events", "events / s", (s) => number(s.rates?.events)],
  ["learned", "learned", (s) => number(s.model?.examples)],
  ["fresh", "fresh, p50", (s) => duration(s.delays?.wide?.[0])],
  ["answer", "answer, p50", (s) => duration(s.delays?.answer?.[0])],
  ["auc", "AUC, recent", (s) => (s.model?.examples ? fixed(s.model.auc, 4) : "–")],
  ["calibration", "calibration", (s) => (s.model?.examples ? fixed(s.model.calibration, 3) : "–")],
  ["live", "live version", (s) => (s.live ?? []).filter(Boolean).join(", ") || "none"],
  ["stale", "newest label is", (s) => (s.model?.staleness_s ? `${duration(s.model.staleness_s * 1000)} old` : "–")],
];
const cells = {};

function showFigures(sections) {
  for (const [id, title, text] of FIGURES) {
    if (!cells[id]) {
      cells[id] = make("dd", { id: `figure-${id}` });
      byId("figures").append(make("div", {}, make("dt", {}, title), cells[id]));
    }
    say(cells[id], text(sections));
  }
}

function connection(name) {
  const badge = byId("connection");
  say(badge, STATES[name]);
  badge.className = `badge ${name}`;
}

// Tabs, as the ARIA pattern has them: arrows, Home and End move, the chosen panel is shown.
function setUpTabs() {
  const tabs = [...byId("tabs").children];
  const panel = (tab) => byId(tab.getAttribute("aria-controls"));
  function choose(tab, focus = true) {
    for (const one of tabs) {
      const is = one === tab;
      set(one, "aria-selected", is);
      one.tabIndex = is ? 0 : -1;
      panel(one).hidden = !is;
    }
    if (focus) tab.focus();
    if (tab.id === "tab-slices") showSlices(panel(tab), state.sections.slices ?? []);
    if (tab.id === "tab-dead") dead.changed(true);
    if (tab.id === "tab-users") users.opened();
  }
  for (const tab of tabs) tab.addEventListener("click", () => choose(tab));
  byId("tabs").addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(tabs[(to + tabs.length) % tabs.length]);
  });
}

function setUpTheme() {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const label = () => say(byId("theme"), isDark() ? "☀ Light" : "☾ Dark");
  byId("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  dark.addEventListener("change", label);
  label();
}

function setUpToken() {
  const dialog = byId("token-dialog");
  const label = () => say(byId("unlock"), hasToken() ? "Lock" : "Read-only");
  byId("unlock").addEventListener("click", () => {
    if (hasToken()) setToken("");
    else dialog.showModal();
  });
  byId("token-no").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "yes") setToken(byId("token").value);
    byId("token").value = "";
    dialog.returnValue = "";
    if (hasToken()) toast("Decisions are sent with this token until the page is closed.");
  });
  onToken(label);
}

setUpTabs();
setUpTheme();
setUpToken();
watch(take, connection);
