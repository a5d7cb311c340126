// The page of a comic: panels are added, drawn, moved by keys or by hand, deleted and brought back.

import { call, part, randomId } from "./api.js";
import { $, actions, announce, fail, toast } from "./ui.js";
import { keepLive, refreshLive } from "./live.js";

const PRICE_AFTER_MS = 350;
let cast = []; // ids of the characters, in the order in which they were picked
let pricing = 0;
let dragged = null;

export function start() {
  Object.assign(actions, { "add-panel": addPanel, "delete-panel": deletePanel, debug: showDebug, move });
  keepLive();
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
  const prompt = $("panel-prompt").value.trim() || "a picture";
  try {
    const { estimated_usd_micros: micros, eta_seconds: seconds } = await call("POST", "/v1/jobs/estimate", { prompt, size: "panel", enhance: $("add-panel").querySelector("[name=enhance]").checked });
    price.textContent = `${seconds ? `about ${Math.max(1, Math.round(seconds))} s · ` : ""}$${micros >= 1e4 ? (micros / 1e6).toFixed(2) : (micros / 1e6).toPrecision(2)}`;
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
