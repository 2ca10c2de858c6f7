// What the page asks of its server: the stream, and single questions. The admin token lives in this module alone.

let token = "";
let heard = () => {};

export const hasToken = () => token !== "";
export const setToken = (value) => { token = value.trim(); heard(); };
export const onToken = (call) => { heard = call; };

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const why = [body.title, body.detail, body.remedy].filter(Boolean).join(": ");
    throw Object.assign(new Error(why || `status ${response.status}`), { status: response.status });
  }
  return body;
}

export const ask = async (path) => answered(await fetch(path, { credentials: "omit", cache: "no-store" }));

export async function send(path, body, withToken = true) {
  const headers = { "Content-Type": "application/json" };
  if (withToken && token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { method: "POST", credentials: "omit", headers, body: JSON.stringify(body) });
  if (withToken && response.status === 401) setToken(""); // it isn't one: another can be entered
  return answered(response);
}

// Watches while the page is visible. `take(name, data)` gets frames, `state(text)` the connection's state.
export function watch(take, state) {
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource("/api/stream");
    source.addEventListener("open", () => state("live"));
    for (const name of ["full", "delta"]) source.addEventListener(name, (event) => take(name, JSON.parse(event.data)));
    source.addEventListener("error", () => {
      state("lost");
      if (source && source.readyState === EventSource.CLOSED) { source = null; setTimeout(open, 2000); }
    });
  };
  const close = () => { if (source) { source.close(); source = null; state("paused"); } };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  open();
}
