// Elements are made of text and attributes only: no string ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const make = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);

export const draw = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

// Sets text only where it differs: what didn't change isn't laid out again.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function set(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// The function, called about once in `ms`: a call that comes too early is made later, one that is `urgent` at once.
export function seldom(ms, call) {
  let last = -Infinity;
  let later = 0;
  const made = (urgent) => { last = performance.now(); call(urgent); };
  return (urgent) => {
    clearTimeout(later);
    const wait = last + ms - performance.now();
    if (urgent || wait < ms / 4) made(urgent);
    else later = setTimeout(made, wait, false);
  };
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const number = (value) =>
  value === null || value === undefined ? "–" : Math.abs(value) >= 1000 ? whole.format(value) : fine.format(value);

export const fixed = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${number(ms)} ms`;
  if (ms < 120_000) return `${number(ms / 1000)} s`;
  if (ms < 7_200_000) return `${whole.format(ms / 60_000)} min`;
  return `${whole.format(ms / 3_600_000)} h`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

export function table(caption, heads, rows, classes = "") {
  const head = heads.map((text) => make("th", { scope: "col" }, text));
  const body = rows.map((cells) => make("tr", {}, cells.map((cell) => make("td", {}, cell))));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", { class: classes }, make("caption", {}, caption), make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)));
}

let hideToast = 0;

export function toast(text, isError = false) {
  const node = byId("said");
  node.hidden = false;
  node.classList.toggle("bad", isError);
  say(node, text);
  clearTimeout(hideToast);
  hideToast = setTimeout(() => { node.hidden = true; }, isError ? 12_000 : 6_000);
}
