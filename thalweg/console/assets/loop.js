// The loop as a picture: rooms as boxes, red when gone; arrows with rates and dots that move while something flows.

import { byId, draw, make, number, say, set, duration } from "./dom.js";

const BOXES = [ // id, title, what it does, x
  ["producers", "producers", "pages, installs", 6],
  ["joiner", "joiner", "pages → examples", 222],
  ["learner", "learner", "wide + deep", 438],
  ["ranker", "ranker", "pages, live swap", 654],
  ["callers", "callers", "apps and sites", 870],
];
const WIDTH = 124;
const TOP = 56;
const HEIGHT = 74;
const ARROWS = [ // id, unit, path, where its text stands, what carries it
  ["events", "events/s", "M130 93H221", 176, "Kafka"],
  ["examples", "examples/s", "M346 93H437", 392, "Kafka"],
  ["versions", "versions/s", "M562 93H653", 608, "Redis"],
  ["replies", "pages/s", "M778 93H869", 824, "HTTP, Kafka"],
];
const BACK = "M932 130V196H68V131";
const DOT_GAP = 28;

const parts = {};
let step = 0;

function build(svg) {
  svg.append(draw("defs", {}, draw("marker", { id: "tip", viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 13, markerHeight: 13, markerUnits: "userSpaceOnUse", orient: "auto" },
    draw("path", { d: "M0 0L10 5L0 10z", class: "tip" }))));
  for (const [id, unit, path, x, carrier] of ARROWS) {
    parts[id] = { text: draw("text", { x, y: 80, class: "rate" }), flow: arrow(svg, path) };
    svg.append(parts[id].text, draw("text", { x, y: 112, class: "small" }, unit), draw("text", { x, y: 128, class: "small" }, carrier));
  }
  parts.shown = { flow: arrow(svg, BACK) };
  svg.append(draw("text", { x: 500, y: 187, class: "small" }, "what was shown, with the features it was ranked by; and what the user did"));
  for (const [id, title, what, x] of BOXES) {
    const middle = x + WIDTH / 2;
    parts[id] = {
      box: draw("g", { class: "room", id: `room-${id}` }, draw("rect", { x, y: TOP, width: WIDTH, height: HEIGHT, rx: 9 }),
        draw("text", { x: middle, y: TOP + 26, class: "name" }, title)),
      note: draw("text", { x: middle, y: TOP + 45, class: "small" }, what),
      more: draw("text", { x: middle, y: TOP + 62, class: "small" }, ""),
    };
    parts[id].box.append(parts[id].note, parts[id].more);
    svg.append(parts[id].box);
  }
  svg.append(draw("text", { x: 500, y: 26, class: "small" }, "what a user just did changes what the next user sees, within a second"));
}

function arrow(svg, path) {
  const flow = draw("path", { d: path, class: "flow", "stroke-dasharray": `0.1 ${DOT_GAP}` });
  svg.append(draw("path", { d: path, class: "arrow", "marker-end": "url(#tip)" }), flow);
  return flow;
}

export function showLoop(sections) {
  const svg = byId("loop");
  if (!parts.events) build(svg);
  const rates = sections.rates ?? {};
  step = (step + 9) % DOT_GAP;
  for (const [id] of ARROWS) say(parts[id].text, number(rates[id] ?? null));
  for (const [id] of ARROWS) {
    const isMoving = rates[id] > 0;
    set(parts[id].flow, "class", isMoving ? "flow on" : "flow");
    if (isMoving) set(parts[id].flow, "stroke-dashoffset", -step);
  }
  set(parts.shown.flow, "class", rates.events > 0 ? "flow on" : "flow"); // it is long: moving it would paint most of the picture
  showRooms(sections);
}

function showRooms(sections) {
  const rooms = sections.rooms ?? [];
  const gone = [];
  for (const id of ["joiner", "learner", "ranker"]) {
    const all = rooms.filter((one) => one[0] === id);
    const lost = all.filter((one) => one[2] === "gone");
    const isUp = all.some((one) => one[2] === "up");
    set(parts[id].box, "class", `room ${isUp ? (lost.length ? "part" : "up") : all.length === lost.length ? "gone" : "starting"}`);
    const lag = sections.lags?.[id];
    say(parts[id].more, isUp ? (lag >= 0.05 ? `${duration(lag * 1000)} behind` : "keeps up") : all.length ? (lost.length ? "gone" : "starting") : "");
    gone.push(...lost.map(([room, worker, , note]) => `${room} ${worker}: ${note}`));
  }
  const list = byId("gone");
  if (list.dataset.now !== gone.join("\n")) {
    list.dataset.now = gone.join("\n");
    list.replaceChildren(...gone.map((text) => make("li", {}, text)));
  }
}

// For those who don't see the picture: its figures in a sentence.
export function sayLoop(sections) {
  const { rates = {} } = sections;
  const words = `${number(rates.events ?? 0)} events, ${number(rates.examples ?? 0)} examples, ${number(rates.versions ?? 0)} versions and ${number(rates.replies ?? 0)} pages a second`;
  say(byId("loop-words"), `${words}.`);
}
