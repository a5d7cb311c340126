// Parts of a page that change while somebody looks at it: fetched again and put in their place, piece by piece.
// What has the focus, what is hidden until an undo, and what was typed but not saved stay as they are; so does a part
// whose data-key is what it was, whatever its script has made of it since.

import { onJob, onReturn } from "./api.js";

const SOON_MS = 400;
const MEANWHILE_MS = 5000;
let soon = 0;
let again = 0;
let pressed = false; // what is under a finger must not be exchanged: a drag or a click would be lost

for (const [type, down] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
  document.addEventListener(type, () => { pressed = down; }, true);
}

const inHand = () => pressed || document.querySelector("[data-dragged]");

// From now on, when a job of this user moves and, while something on the page is being made, every few seconds.
export function keepLive(moves = () => true) {
  onJob((job, event) => { if (event !== "progress" && event !== "preview" && moves(job)) refreshSoon(); });
  keepFresh();
}

// The same for a page that hears of it in another way.
export function keepFresh() {
  onReturn(refreshSoon);
  meanwhile();
}

export function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(refreshLive, SOON_MS);
}

export async function refreshLive() {
  clearTimeout(soon);
  if (inHand()) return refreshSoon();
  try {
    const answer = await fetch(location.pathname + location.search);
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (inHand()) return refreshSoon();
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other) part.dataset.live === "list" ? mergeList(part, other) : replacePart(part, other);
    }
    document.dispatchEvent(new CustomEvent("fresh", { detail: fresh }));
  } catch {
    return; // the gateway is away; the next time may work
  } finally {
    meanwhile();
  }
}

function meanwhile() {
  clearTimeout(again);
  if (document.querySelector("[data-busy]")) again = setTimeout(refreshLive, MEANWHILE_MS);
}

function replacePart(part, other) {
  part.toggleAttribute("data-busy", other.hasAttribute("data-busy"));
  const same = part.dataset.key ? part.dataset.key === other.dataset.key : part.innerHTML === other.innerHTML;
  if (same || part.contains(document.activeElement) || part.querySelector("[data-dirty]")) return;
  part.className = other.className;
  if (other.dataset.key !== undefined) part.dataset.key = other.dataset.key;
  part.replaceChildren(...other.childNodes);
}

// Items are the same where their ids are; only what differs is exchanged, and nothing moves without need.
function mergeList(list, other) {
  const known = new Map([...list.children].map((item) => [item.id, item]));
  const wanted = [...other.children].map((item) => {
    const mine = known.get(item.id);
    if (!mine || (mine.outerHTML !== item.outerHTML && !stays(mine))) return document.adoptNode(item);
    return mine;
  });
  const focused = document.activeElement;
  const pending = [...list.querySelectorAll(":scope > [data-pending]")];
  let at = list.firstElementChild;
  for (const item of [...pending, ...wanted]) {
    if (item === at) at = at.nextElementSibling;
    else list.insertBefore(item, at);
  }
  const kept = new Set([...pending, ...wanted]);
  for (const item of [...list.children]) if (!kept.has(item)) item.remove();
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true }); // it was moved
}

const stays = (item) => item.hidden || item.contains(document.activeElement) || item.querySelector("input:checked");
