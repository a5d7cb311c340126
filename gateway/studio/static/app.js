// The one script of every page. The server renders; this changes things in place and calls the API for what buttons do.

import { call, ended, onJob, onReturn, part, watch } from "./api.js";
import { refreshLive } from "./live.js";
import { $, actions, announce, copyText, fail, setUp, stageWords, toast } from "./ui.js";

const page = document.body.dataset.page;
const LATER_SECONDS = 6;
const METER_MS = 700;
const BUSY_MS = 1200;
const BUSY_ROUNDS = 20; // a delivery that was not taken by then is tried again in minutes or hours
const MODULES = { generate: "generate", "new-character": "characters", character: "characters", characters: "characters", "character-images": "characters", comic: "comics" };

Object.assign(actions, {
  "sign-in": signIn,
  "sign-in-local": signInLocal,
  "sign-out": () => call("DELETE", "/v1/session").then(() => { location.href = "/"; }, fail),
  "copy-secret": () => copyText($("secret").querySelector("[data-part=secret]").textContent),
});

// <button data-do="name">, <button data-api="POST /v1/…">, <button data-later="DELETE /v1/…">
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do], [data-api], [data-later]");
  if (!button || button.matches("form, select, input")) return;
  if (button.dataset.do) return actions[button.dataset.do]?.(button);
  if (button.dataset.api) return send(button, button.dataset.body ? JSON.parse(button.dataset.body) : undefined);
  later(button);
});
document.addEventListener("change", (event) => {
  if (event.target.matches("input[data-do], select[data-do]")) actions[event.target.dataset.do]?.(event.target);
  event.target.closest("form[data-submit-on-change]")?.requestSubmit();
});
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.api) {
    event.preventDefault();
    send(form, bodyOf(form));
  } else if (form.dataset.do) {
    event.preventDefault();
    actions[form.dataset.do](form, event.submitter?.value);
  }
});

// The fields of a form as JSON: an empty one is left out, or null where it is a number.
function bodyOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || (field.type === "checkbox" && !field.checked && field.dataset.as !== "list")) continue;
    const as = { number: Number, micros: (text) => Math.round(Number(text) * 1e6) }[field.dataset.as];
    if (field.dataset.as === "list") body[field.name] = [...(body[field.name] ?? []), ...(field.checked ? [field.value] : [])];
    else if (as) body[field.name] = field.value === "" ? null : as(field.value);
    else if (field.value !== "") body[field.name] = field.type === "checkbox" ? true : field.value;
  }
  return body;
}

// Send, then do what the element says: reload a part, go somewhere, show a secret.
async function send(element, body) {
  const [method, path] = element.dataset.api.split(" ");
  const buttons = element.matches("form") ? element.querySelectorAll("button") : [element];
  const focus = document.activeElement;
  buttons.forEach((button) => { button.disabled = true; });
  try {
    const answer = await call(method, path, body);
    if (element.dataset.said) toast(element.dataset.said);
    await THEN[element.dataset.then]?.(answer, element);
  } catch (problem) {
    fail(problem);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
    if (document.activeElement === document.body) (focus.isConnected ? focus : $(focus.id))?.focus({ preventScroll: true });
  }
}

const THEN = {
  refresh: () => { rounds = 0; return refresh(); },
  live: refreshLive,
  job: (job) => refreshRow(job),
  "open-comic": (comic) => { location.href = `/comics/${comic.id}`; },
  "open-chapter": (chapter) => { location.href = `/comics/${chapter.project_id}?chapter=${chapter.id}`; },
  "open-job": (job) => { location.href = `/generate?job=${job.id}`; },
  secret: async (answer, form) => {
    form.closest("dialog").close();
    form.reset();
    $("secret").querySelector("[data-part=secret]").textContent = answer[form.dataset.secret];
    $("secret").showModal();
    await refresh();
  },
};

// The page again, in place: what has the focus keeps it where it still exists.
async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
  const focus = document.activeElement?.id;
  if (fresh) $("main").replaceChildren(...fresh.childNodes);
  if (focus) $(focus)?.focus({ preventScroll: true });
  watchRows();
  refreshWhileBusy();
}

// What is on its way on a page without a stream.
let rounds = 0;
let soon = 0;
function refreshWhileBusy() {
  clearTimeout(soon);
  if (page !== "webhook" || rounds === BUSY_ROUNDS || !$("main").querySelector("[data-busy]")) return;
  rounds += 1;
  soon = setTimeout(() => refresh().catch(refreshWhileBusy), BUSY_MS);
}

// What cannot be undone is done after a while, in which it can be called off; then data-to is gone to.
function later(button) {
  const [method, path] = button.dataset.later.split(" ");
  const item = button.closest("[data-item]");
  const act = (event) => {
    removeEventListener("pagehide", act);
    clearTimeout(timer);
    fetch(path, { method, keepalive: true }).then((answer) => answer.ok || Promise.reject(new Error(`The gateway answered ${answer.status}.`)))
      .then(() => { if (button.dataset.to && !event) location.href = button.dataset.to; })
      .catch((problem) => { item.hidden = false; fail(problem); });
  };
  const timer = setTimeout(() => act(), LATER_SECONDS * 1000);
  addEventListener("pagehide", act);
  item.hidden = true;
  toast(button.dataset.said, {
    seconds: LATER_SECONDS,
    undo: () => {
      clearTimeout(timer);
      removeEventListener("pagehide", act);
      item.hidden = false;
      button.focus();
    },
  });
}

// Rows of jobs change in place; only what moved is touched.

function updateRow(job) {
  const row = document.querySelector(`[data-row="${job.id}"]`);
  if (!row) return page === "jobs" && document.body.dataset.firstPage && $("jobs") ? addRow(job) : undefined;
  const status = row.querySelector(".status");
  if (ended(job) && status.dataset.status !== job.status) {
    announce(`Job ${stageWords(job).toLowerCase()}`);
    return page === "job" ? refresh() : refreshRow(job);
  }
  status.dataset.status = job.status;
  status.textContent = stageWords(job);
}

async function refreshRow(job) {
  const row = document.querySelector(`tr[data-row="${job.id}"]`);
  if (!row) return refresh();
  const fresh = (await part(`/ui/jobs/${job.id}/row`)).querySelector("tr");
  const focus = row.contains(document.activeElement);
  row.replaceWith(fresh);
  if (focus) (fresh.querySelector("button, td:last-child a") ?? fresh.querySelector("a")).focus({ preventScroll: true });
}

function watchRows() {
  for (const row of document.querySelectorAll("[data-row]")) {
    const { status } = row.querySelector(".status").dataset;
    watch({ id: row.dataset.row, status, poll_after_ms: 3000 });
  }
}

const adding = new Set();
async function addRow(job) {
  if (adding.has(job.id)) return;
  adding.add(job.id);
  const fresh = (await part(`/ui/jobs/${job.id}/row`)).querySelector("tr");
  $("jobs").tBodies[0].prepend(fresh);
}

// At the foot of the rail: what is spent, and how much is at work.
let metered = 0;
function refreshMeter() {
  clearTimeout(metered);
  metered = setTimeout(async () => {
    const fresh = await part("/ui/meter").catch(() => null);
    const now = fresh?.getElementById("meter");
    if (now && !$("meter").contains(document.activeElement)) $("meter").replaceWith(now);
  }, METER_MS);
}

async function signInLocal() {
  try {
    await call("POST", "/v1/session", {});
    location.replace(location.pathname + location.search);
  } catch (problem) {
    $("gate-words").textContent = problem.message;
    $("local").hidden = false;
  }
}

async function signIn(form, how) {
  const words = $("gate-words");
  const email = form.elements.email.value;
  try {
    if (how === "link") {
      await call("POST", "/v1/session/link", { email });
      words.classList.remove("bad");
      words.textContent = `A link is on its way to ${email}. It works in this browser.`;
    } else {
      await call("POST", "/v1/session", { email, password: form.elements.password.value });
      location.replace(location.pathname === "/" ? "/generate" : location.pathname + location.search);
    }
  } catch (problem) {
    words.classList.add("bad");
    words.textContent = problem.message;
  }
  words.hidden = false;
}

setUp();
// An address printed by an earlier release carried a key behind #.
if (location.hash.startsWith("#key=")) history.replaceState(null, "", location.pathname + location.search);
if (page === "gate" && document.body.dataset.methods.includes("local")) signInLocal();
if (MODULES[page]) (await import(`./${MODULES[page]}.js`)).start(page);
if (page === "jobs" || page === "job") {
  onJob(updateRow);
  onReturn(refresh);
  watchRows();
}
refreshWhileBusy();
if (MODULES[page] || page === "jobs" || page === "job") onJob((job, event) => { if (event !== "progress" && event !== "preview") refreshMeter(); });
document.body.dataset.ready = "yes";
