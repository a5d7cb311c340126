// The page of a comic: panels are added, drawn, moved by keys or by hand, deleted and brought back.

import { call, follow, part, randomId } from "./api.js";
import { $, actions, announce, fail, stageWords, toast } from "./ui.js";
import { keepFresh, refreshLive, refreshSoon } from "./live.js";
import { estimate, fromPicture, money } from "./prices.js";

const PRICE_AFTER_MS = 350;
let cast = []; // ids of the characters, in the order in which they were picked
let pricing = 0;
let dragged = null;
const comic = `/v1/comics/${document.body.dataset.comic}`;

export function start() {
  Object.assign(actions, { "add-panel": addPanel, "delete-panel": deletePanel, debug: showDebug, move, invite, "member-role": changeRole, dismiss });
  follow({ address: `${comic}/events`, names: ["status", "progress", "ready", "failed"], heard: moved });
  keepFresh();
  const dialog = $("add-panel");
  if (!dialog) return;
  dialog.addEventListener("input", changed);
  dialog.addEventListener("toggle", askPrice);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, textarea, select") || document.querySelector("dialog[open]");
    if (event.key !== "p" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    dialog.showModal();
  });
  dragToOrder($("panels"));
}

// A panel's job has moved, whichever member asked for it: its card says so at once, the page is fetched after.
function moved(panel, event) {
  const card = $(`panel-${panel.id}`);
  if (event !== "progress") refreshSoon();
  if (event === "failed") fail({ message: `Panel ${panel.position} failed. ${panel.error?.message ?? ""}` });
  if (event === "ready") announce(`Panel ${panel.position} ready`);
  const status = card?.querySelector("[data-part=status]");
  if (!status || panel.status !== "generating") return;
  status.textContent = "Generating…";
  card.querySelector("[data-part=stage]").textContent = stageWords({ ...panel, status: "processing" });
  const bar = card.querySelector("progress");
  panel.steps && panel.step ? (bar.value = panel.step / panel.steps) : bar.removeAttribute("value");
}

function changed(event) {
  const { target } = event;
  if (target.name === "character_ids") {
    cast = target.checked ? [...cast, target.value] : cast.filter((id) => id !== target.value);
    const names = cast.map((id) => $("add-panel").querySelector(`[value="${id}"]`).dataset.name);
    $("add-panel").querySelector("[data-part=cast]").textContent = names.length ? `In this order: ${names.join(", ")}` : "They are named to the model in the order you pick them.";
  }
  clearTimeout(pricing);
  pricing = setTimeout(askPrice, PRICE_AFTER_MS);
}

// What a picture of this size costs; each repair of a character that drifted costs the same again.
async function askPrice() {
  const price = $("add-panel").querySelector("[data-part=price]");
  const enhance = $("add-panel").querySelector("[name=enhance]").checked;
  try {
    const { estimated_usd_micros: micros, eta_seconds: seconds } = await estimate({ size: "panel", enhance, ...(cast.length && fromPicture) });
    price.textContent = `${seconds ? `about ${Math.max(1, Math.round(seconds))} s · ` : ""}${money(micros)}`;
  } catch {
    price.textContent = "";
  }
}

async function addPanel(form) {
  const { prompt, enhance, style, mode, seed, caption } = Object.fromEntries(new FormData(form));
  const body = { prompt, character_ids: cast, enhance: Boolean(enhance), mode, ...(style && { style }), ...(seed && { seed: Number(seed) }), ...(caption && { caption }) };
  const button = form.querySelector("button.primary");
  button.disabled = true;
  try {
    await call("POST", form.dataset.path, body, { "Idempotency-Key": randomId() });
    form.reset();
    cast = [];
    $("add-panel").close();
    announce("Panel queued");
    await refreshLive();
  } catch (problem) {
    fail(problem);
  } finally {
    button.disabled = false;
  }
}

async function deletePanel(button) {
  const { panel } = button.dataset;
  const item = button.closest("li");
  const near = (item.nextElementSibling ?? item.previousElementSibling)?.querySelector("[data-do=delete-panel]");
  try {
    await call("DELETE", `/v1/comics/panels/${panel}`);
  } catch (problem) {
    return fail(problem);
  }
  item.remove();
  near?.focus();
  refreshLive();
  toast("Panel deleted", { undo: () => call("POST", `/v1/comics/panels/${panel}/restore`).then(refreshLive, fail) });
}

// Reordering: the page first, then the API; where it refuses, the page goes back to what is so.
function move(button) {
  const item = button.closest("li");
  const other = button.dataset.by === "1" ? item.nextElementSibling : item.previousElementSibling;
  if (!other) return announce("It is at the end already");
  button.dataset.by === "1" ? other.after(item) : other.before(item);
  button.focus({ preventScroll: true });
  return keepOrder(item);
}

async function keepOrder(item) {
  const items = [...$("panels").children];
  announce(`Panel ${items.indexOf(item) + 1} of ${items.length}`);
  try {
    await call("PUT", $("panels").dataset.order, { ids: items.map((one) => one.id.replace("panel-", "")) });
  } catch (problem) {
    fail(problem);
  }
  await refreshLive();
}

function dragToOrder(list) {
  list.addEventListener("dragstart", (event) => {
    dragged = event.target.closest("li[draggable=true]");
    if (!dragged) return;
    event.dataTransfer.effectAllowed = "move";
    dragged.dataset.dragged = "";
  });
  list.addEventListener("dragover", (event) => {
    if (!dragged) return;
    event.preventDefault(); // so that it may be dropped here
    const over = event.target.closest("li");
    if (!over || over === dragged) return;
    const later = dragged.compareDocumentPosition(over) & Node.DOCUMENT_POSITION_FOLLOWING;
    later ? over.after(dragged) : over.before(dragged);
  });
  list.addEventListener("drop", (event) => { event.preventDefault(); putDown(); });
  list.addEventListener("dragend", putDown);
}

function putDown() {
  if (!dragged) return;
  const item = dragged;
  dragged = null;
  delete item.dataset.dragged;
  keepOrder(item);
}

async function showDebug(button) {
  try {
    const told = await part(`/ui/panels/${button.dataset.panel}/debug`);
    $("debug").querySelector("[data-part=told]").replaceChildren(told);
    $("debug").showModal();
  } catch (problem) {
    fail(problem);
  }
}

// Who takes part

async function invite(form) {
  const { user_id: id, role } = Object.fromEntries(new FormData(form));
  if (await setRole(id.trim(), role, `They may ${role === "editor" ? "change" : "read"} it now`)) form.reset();
}

const changeRole = (select) => setRole(select.dataset.user, select.value, `Now ${select.value}`);

async function setRole(id, role, words) {
  try {
    await call("POST", `${comic}/members`, { user_id: id, role });
  } catch (problem) {
    fail(problem);
    return false;
  }
  document.activeElement.blur(); // what has the focus is not exchanged
  await refreshLive();
  toast(words);
  return true;
}

async function dismiss(button) {
  const { user } = button.dataset;
  const item = button.closest("li");
  const role = item.querySelector("select").value;
  try {
    await call("DELETE", `${comic}/members/${user}`);
  } catch (problem) {
    return fail(problem);
  }
  item.remove();
  $("member-id").focus();
  await refreshLive();
  toast("Dismissed", { undo: () => setRole(user, role, "Here again") });
}
