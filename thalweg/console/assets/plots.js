// Small plots of the last five minutes: p50 as a line, p99 as a thin one. Points: [time_ms, events/s, then p50, p99 of each delay].

import { draw, duration, make, number, say, set } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 64;
const SPAN_MS = 300_000;
const PLOTS = [ // id, title, columns, form, what it is
  ["wide", "Freshness", [2, 3], duration, "install in the log → first page that has learned it"],
  ["deep", "Freshness of the deep part", [4, 5], duration, "the same, until the deep part has learned it, too"],
  ["answer", "Answers", [6, 7], duration, "a request's arrival → its page is ready"],
  ["events", "Events", [1], number, "pages and installs joined, per second"],
];

export class Plots {
  constructor(root) {
    this.plots = PLOTS.map(([id, title, columns, form, what]) => {
      const lines = columns.map((column, i) => draw("path", { class: i ? "line thin" : "line" }));
      const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
        draw("path", { class: "grid", d: `M0 ${HEIGHT - 0.5}H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}` }), lines);
      const now = make("strong", {}, "–");
      const top = make("span", { class: "quiet" });
      root.append(make("figure", { id: `plot-${id}`, class: "card" },
        make("figcaption", {}, make("span", {}, title), now), svg, make("p", { class: "quiet" }, top, ` ${what}`)));
      return { title, columns, form, lines, svg, now, top };
    });
  }

  // The newest values as words.
  say(point) {
    for (const { columns, form, now } of this.plots) say(now, words(point, columns, form));
  }

  draw(points) {
    const end = points[points.length - 1][0];
    const recent = points.filter((point) => point[0] > end - SPAN_MS);
    for (const { title, columns, form, lines, svg, top } of this.plots) {
      const values = recent.flatMap((point) => columns.map((column) => point[column])).filter((value) => value !== null);
      const most = nice(Math.max(0, ...values));
      lines.forEach((line, i) => set(line, "d", path(recent, columns[i], end, most)));
      say(top, values.length ? `scale 0 to ${form(most)};` : "nothing yet;");
      set(svg, "aria-label", `${title}, last five minutes: now ${words(recent[recent.length - 1], columns, form)}`);
    }
  }
}

const words = (point, columns, form) =>
  columns.map((column, i) => `${columns.length > 1 ? `p${i ? 99 : 50} ` : ""}${form(point[column])}`).join(" · ");

// The least round number that isn't below the value: 1, 2 or 5 times a power of ten.
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((factor) => factor * power >= value) * power;
}

function path(points, column, end, most) {
  let text = "";
  let pen = "M";
  for (const point of points) {
    if (point[column] === null) { pen = "M"; continue; }
    const x = WIDTH - ((end - point[0]) / SPAN_MS) * WIDTH;
    const y = HEIGHT - 2 - (point[column] / most) * (HEIGHT - 4);
    text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return text;
}
