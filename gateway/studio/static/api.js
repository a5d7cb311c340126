// The public API as this page uses it: calls with the login cookie, and one stream of events.

const publicUrl = document.documentElement.dataset.publicUrl;
const EVENTS = ["status", "progress", "preview", "completed", "failed", "canceled"];
const ENDED = ["completed", "failed", "canceled"];

export const ended = (job) => ENDED.includes(job.status);

// An address of this gateway without its host: the page may have been opened under another name of it.
export const here = (url) => (url.startsWith(publicUrl) ? url.slice(publicUrl.length) : url);

export const randomId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");

// The answer's JSON, or null where it has none. Throws what the API says is wrong.
export async function call(method, path, body, headers = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers: { ...json, ...headers }, body: body === undefined ? null : JSON.stringify(body) });
  } catch {
    throw new Error("The gateway does not answer. Is it running?");
  }
  if (answer.status === 401 && !path.startsWith("/v1/session")) location.reload(); // the gate; drafts are kept
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({}));
  const words = problem.errors?.[0] ? `${problem.errors[0].pointer.split("/").pop()}: ${problem.errors[0].detail}` : problem.detail;
  throw Object.assign(new Error(words ?? `The gateway answered ${answer.status}.`), { status: answer.status, title: problem.title, code: problem.code });
}

// A piece of a page, made by the server.
export async function part(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`The gateway answered ${answer.status}.`);
  const template = document.createElement("template");
  template.innerHTML = await answer.text(); // our own template, which escapes what users wrote
  return template.content;
}

// A picture of the user's own; its id once it is checked.
export async function upload(file) {
  const asked = { filename: file.name || "pasted.png", content_type: file.type, bytes: file.size };
  const ticket = await call("POST", "/v1/uploads", asked);
  const sent = await fetch(here(ticket.url), { method: ticket.method, headers: ticket.headers, body: file });
  if (!sent.ok) throw new Error(`The picture could not be sent (${sent.status}).`);
  const ready = await call("POST", `/v1/uploads/${ticket.upload_id}/complete`);
  return ready.id;
}

// Jobs as they move: one stream for the page, closed while it is hidden, and asking where the stream is silent.

const listeners = new Set();
const returned = new Set();
const watched = new Map(); // id -> {every, timer}
const seen = new Map(); // id -> how it ended, for those who begin to watch after the end was told
let stream = { address: "/v1/events", names: EVENTS, heard: tell };
let wanted = false;
let source = null;
let tries = 0;
let reconnecting = 0;

export function onJob(listener) {
  listeners.add(listener);
  open();
}

// Another stream of the API in place of the user's jobs: {address, names, heard(item, name)}.
export function follow(other) {
  stream = other;
  open();
}

function open() {
  wanted = true;
  if (!source && !document.hidden) connect();
}

// After the stream was away: what came while nobody listened has to be asked for.
export const onReturn = (listener) => returned.add(listener);

export function watch(job) {
  if (seen.has(job.id)) return tell(seen.get(job.id), "status");
  if (ended(job)) return;
  watched.set(job.id, { every: job.poll_after_ms });
  askLater(job.id);
}

export function unwatch(id) {
  clearTimeout(watched.get(id)?.timer);
  watched.delete(id);
}

function tell(job, event) {
  if (seen.has(job.id) && !ended(job)) return; // an older answer that was overtaken
  if (ended(job)) {
    seen.set(job.id, job);
    unwatch(job.id);
  } else if (watched.has(job.id)) askLater(job.id);
  for (const listener of listeners) listener(job, event);
}

function askLater(id) {
  const one = watched.get(id);
  clearTimeout(one.timer);
  if (!document.hidden) one.timer = setTimeout(() => ask(id), one.every);
}

async function ask(id) {
  try {
    const job = await call("GET", `/v1/jobs/${id}`);
    if (watched.has(id)) tell(job, "status");
    if (source?.readyState === EventSource.CLOSED) connect(); // the gateway is back
  } catch {
    if (watched.has(id)) askLater(id); // it changes nothing; the next one may work
  }
}

function connect() {
  clearTimeout(reconnecting);
  source = new EventSource(stream.address);
  source.onopen = () => {
    if (tries > 0) {
      for (const id of watched.keys()) ask(id);
      for (const listener of returned) listener();
    }
    tries = 0;
    document.body.dataset.live = "yes";
  };
  source.onerror = () => {
    tries += 1;
    document.body.dataset.live = "no";
    if (source?.readyState !== EventSource.CLOSED) return; // the browser tries by itself
    leaveIfSignedOut();
    const wait = Math.min(10_000, 500 * 2 ** tries) * (0.5 + Math.random());
    reconnecting = setTimeout(connect, wait);
  };
  for (const name of stream.names) source.addEventListener(name, (event) => stream.heard(JSON.parse(event.data), name));
}

// The stream does not say why it was refused; the session does. The gate is at the same address, drafts are kept.
async function leaveIfSignedOut() {
  const answer = await fetch("/v1/session").catch(() => null);
  if (answer?.status === 401) location.reload();
}

function pause() {
  clearTimeout(reconnecting);
  source?.close();
  source = null;
  tries = 1;
  for (const one of watched.values()) clearTimeout(one.timer);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return pause();
  if (wanted) connect();
  for (const id of watched.keys()) ask(id);
});
addEventListener("pagehide", pause);
