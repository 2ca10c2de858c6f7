// The loop as a picture: rooms as boxes, red when gone; arrows with rates and dots that move while something flows.

import { byId, draw, make, number, say, set, duration } from "./dom.js";

const BOXES = [ // id, title, what it does, x
  ["producers", "producers", "pages, installs", 16],
  ["joiner", "joiner", "pages → examples", 232],
  ["learner", "learner", "wide + deep", 448],
  ["ranker", "ranker", "pages, live swap", 664],
  ["callers", "callers", "apps and sites", 880],
];
const WIDTH = 104;
const TOP = 62;
const HEIGHT = 74;
const ARROWS = [ // id, unit, path, where its text stands
  ["events", "events/s", "M120 99H232", 176, 88],
  ["examples", "examples/s", "M336 99H448", 392, 88],
  ["versions", "versions/s", "M552 99H664", 608, 88],
  ["replies", "pages/s", "M768 99H880", 824, 88],
  ["shown", "what was shown, with the features it was ranked by; and what the user did", "M932 136V200H68V136", 500, 191],
];
const CARRIERS = [["Kafka", 176], ["Kafka", 392], ["Redis", 608], ["HTTP, Kafka", 824]];
const DOT_GAP = 28;

const parts = {};
let step = 0;

function build(svg) {
  svg.append(draw("defs", {}, draw("marker", { id: "tip", viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 7, markerHeight: 7, orient: "auto" },
    draw("path", { d: "M0 0L10 5L0 10z", class: "tip" }))));
  for (const [id, unit, path, x, y] of ARROWS) {
    parts[id] = {
      unit,
      text: draw("text", { x, y, class: "rate" }),
      flow: draw("path", { d: path, class: "flow", "stroke-dasharray": `0.1 ${DOT_GAP}` }),
    };
    svg.append(draw("path", { d: path, class: "arrow", "marker-end": "url(#tip)" }), parts[id].flow, parts[id].text);
  }
  for (const [text, x] of CARRIERS) svg.append(draw("text", { x, y: 118, class: "small" }, text));
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
  svg.append(draw("text", { x: 500, y: 32, class: "small" }, "what a user just did changes what the next user sees, within a second"));
}

export function showLoop(sections) {
  const svg = byId("loop");
  if (!parts.events) build(svg);
  const rates = sections.rates ?? {};
  step = (step + 9) % DOT_GAP;
  for (const [id] of ARROWS) {
    const rate = id === "shown" ? rates.events : rates[id];
    say(parts[id].text, id === "shown" ? parts[id].unit : `${number(rate ?? null)} ${parts[id].unit}`);
    set(parts[id].flow, "class", rate > 0 ? "flow on" : "flow");
    if (rate > 0) set(parts[id].flow, "stroke-dashoffset", -step);
  }
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
  const { rates = {} } = sections;
  const words = `${number(rates.events ?? 0)} events, ${number(rates.examples ?? 0)} examples, ${number(rates.versions ?? 0)} versions and ${number(rates.replies ?? 0)} pages a second`;
  say(byId("loop-words"), `${words}.`);
}
