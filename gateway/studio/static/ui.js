// What every page has: toasts, the live region, dialogs, the lightbox, shortcuts, code samples.

import { call } from "./api.js";

export const $ = (id) => document.getElementById(id);
export const PICTURES = ["image/png", "image/jpeg", "image/webp"];
const UNDO_SECONDS = 8;
const NARROW = 820;

// What a job does now; the server says it in the same words.
const STAGES = {
  enhancing: "Enhancing the prompt",
  loading: "Starting a GPU, about 40 s",
  generating: "Drawing",
  storing: "Saving the picture",
  judging: "Comparing with the references",
};
const STATUSES = { queued: "Queued", completed: "Done", failed: "Failed", canceled: "Canceled" };

export function stageWords(job) {
  if (job.status === "queued" && job.queue_position > 1) return `Queued, ${job.queue_position - 1} before it`;
  if (job.status !== "processing") return STATUSES[job.status];
  const stage = STAGES[job.stage] ?? "Working";
  return job.step ? `${stage}, step ${job.step} of ${job.steps}` : stage;
}

// Toasts: three at most, the oldest goes first.
export function toast(words, { undo, seconds = undo ? UNDO_SECONDS : 5 } = {}) {
  const box = Object.assign(document.createElement("div"), { className: "toast" });
  const text = Object.assign(document.createElement("span"), { textContent: words });
  box.append(text);
  if (undo) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Undo" });
    button.addEventListener("click", () => { box.remove(); undo(); });
    box.append(button);
  }
  const toasts = $("toasts");
  const open = document.querySelector("dialog[open]");
  (open ?? document.body).append(toasts); // a modal dialog covers all that is outside of it
  toasts.append(box);
  while (toasts.children.length > 3) toasts.firstElementChild.remove();
  setTimeout(() => box.remove(), seconds * 1000);
  announce(words);
}

export const fail = (problem) => toast(problem.title && problem.title !== problem.message ? `${problem.title}: ${problem.message}` : problem.message);

export function announce(words) {
  if ($("live").textContent !== words) $("live").textContent = words;
}

// A picture goes at once and comes back if asked; focus goes to its neighbor.
export async function deletePicture(id) {
  const tiles = [...document.querySelectorAll(`[data-tile="${id}"]`)];
  const places = tiles.map((tile) => ({ tile, parent: tile.parentElement, before: tile.nextSibling }));
  const near = tiles.map((tile) => (tile.nextElementSibling ?? tile.previousElementSibling)?.querySelector("a")).find(Boolean);
  const hadFocus = tiles.some((tile) => tile.contains(document.activeElement));
  try {
    await call("DELETE", `/v1/images/${id}`);
  } catch (problem) {
    return fail(problem);
  }
  tiles.forEach((tile) => tile.remove());
  if (hadFocus) near?.focus();
  toast("Picture deleted", {
    undo: () => call("POST", `/v1/images/${id}/restore`).then(() => {
      for (const { tile, parent, before } of places) parent.insertBefore(tile, before?.parentElement === parent ? before : null);
      announce("Picture restored");
    }, fail),
  });
}

// The lightbox goes through the pictures of the list it was opened from.
let shots = [];
let at = 0;
const shown = (name) => $("lightbox").querySelector(`[data-part=${name}]`);

export function openLightbox(link) {
  const list = link.closest("ul") ?? document;
  shots = [...list.querySelectorAll("a[data-shot]")];
  showShot(shots.indexOf(link));
  $("lightbox").showModal();
}

function showShot(n) {
  at = (n + shots.length) % shots.length;
  const link = shots[at];
  const { shot, job, prompt, facts } = link.dataset;
  Object.assign(shown("picture"), { src: link.href, alt: prompt });
  shown("count").textContent = `${at + 1} of ${shots.length}`;
  shown("prompt").textContent = prompt;
  shown("facts").textContent = facts;
  shown("words").hidden = $("lightbox").querySelector("[data-do=info]").ariaPressed !== "true";
  shown("download").href = `${link.getAttribute("href")}${link.search ? "&" : "?"}download=true`;
  shown("reuse").href = `/generate?from=${job}`;
  shown("reuse").hidden = !job;
  $("lightbox").querySelector("[data-do=delete-shown]").hidden = "keep" in link.dataset;
  $("lightbox").querySelector("[data-do=compare]").hidden = !link.dataset.before;
  compare(false);
  history.replaceState(history.state, "", `#image=${shot}`);
}

// The picture over the one that it was made from, as far as the slider says.
function compare(on) {
  const [pair, picture, before] = ["pair", "picture", "before"].map(shown);
  $("lightbox").querySelector("[data-do=compare]").ariaPressed = String(on);
  pair.classList.toggle("comparing", on);
  before.hidden = shown("slide").hidden = !on;
  if (!on) return before.removeAttribute("src");
  before.src = shots[at].dataset.before;
  pair.style.setProperty("--ratio", `${picture.naturalWidth} / ${picture.naturalHeight}`);
  slide();
  shown("slider").focus();
}

const slide = () => shown("pair").style.setProperty("--at", `${shown("slider").value}%`);

function closeLightbox() {
  history.replaceState(history.state, "", location.pathname + location.search);
  document.body.append($("toasts"));
  if (shots[at]?.isConnected) shots[at].focus({ preventScroll: true });
}

const step = (by) => $("lightbox")?.open && showShot(at + by);

async function deleteShown() {
  if ("keep" in shots[at].dataset) return; // the page it lies on has a button that tells what else goes
  const id = shots[at].dataset.shot;
  await deletePicture(id);
  shots = shots.filter((link) => link.isConnected);
  shots.length ? showShot(Math.min(at, shots.length - 1)) : $("lightbox").close();
}

export const actions = {
  help: () => $("help").showModal(),
  previous: () => step(-1),
  next: () => step(1),
  compare: (button) => compare(button.ariaPressed !== "true"),
  info: (button) => { button.ariaPressed = String(button.ariaPressed !== "true"); showShot(at); },
  "close-lightbox": () => $("lightbox").close(),
  "delete-shown": deleteShown,
  delete: (button) => deletePicture(button.dataset.image),
  open: (button) => $(button.dataset.dialog).showModal(),
  "open-sheet": openSheet,
  "close-sheet": closeSheet,
  close: (button) => button.closest("dialog").close(),
  "api-call": (button) => showCall(JSON.parse(button.dataset.body)),
  "toggle-theme": () => setTheme(getComputedStyle(document.body).colorScheme === "light" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: light)").matches) ? "dark" : "light"),
  theme: (input) => setTheme(input.value),
};

export function setTheme(theme) {
  document.cookie = `tenkaigen_theme=${theme}; Path=/; SameSite=Lax; Max-Age=${theme ? 31536000 : 0}`;
  theme ? (document.documentElement.dataset.theme = theme) : delete document.documentElement.dataset.theme;
}

export function showCall(body) {
  const element = $("api-call").querySelector("api-call");
  element.show(body);
  $("api-call").showModal();
}

// Shortcuts: [keys, words, action, where]; the help sheet is made of the same list.
const inPage = () => !document.querySelector("dialog[open]");
const inLightbox = () => $("lightbox")?.open;
export const SHORTCUTS = [
  ["?", "This sheet", actions.help, inPage],
  ["/", "Go to the prompt", () => ($("prompt") ? $("prompt").focus() : (location.href = "/generate")), inPage],
  ["n", "New picture", () => { location.href = "/generate"; }, inPage],
  ["h", "Characters", () => { location.href = "/characters"; }, inPage],
  ["m", "Comics", () => { location.href = "/comics"; }, inPage],
  ["p", "Add a panel, in a comic", () => {}, () => false],
  ["j", "Jobs", () => { location.href = "/jobs"; }, inPage],
  ["c", "Costs", () => { location.href = "/costs"; }, inPage],
  ["t", "Dark or light", actions["toggle-theme"], inPage],
  ["ArrowLeft", "Previous picture, in the viewer", () => step(-1), inLightbox],
  ["ArrowRight", "Next picture, in the viewer", () => step(1), inLightbox],
  ["b", "Compare with the picture before, in the viewer", () => $("lightbox").querySelector("[data-do=compare]:not([hidden])")?.click(), inLightbox],
  ["i", "Show what was asked, in the viewer", () => $("lightbox").querySelector("[data-do=info]").click(), inLightbox],
  ["Delete", "Delete a picture", () => (inLightbox() ? deleteShown() : deleteFocused()), () => inLightbox() || focused()],
];
const focused = () => document.activeElement?.closest?.("a[data-shot]");
const deleteFocused = () => ("keep" in focused().dataset ? focused().closest("li").querySelector("[data-later]")?.click() : deletePicture(focused().dataset.shot));
const NAMES = { ArrowLeft: "←", ArrowRight: "→", Delete: "Del" };

export function setUp() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && inPage()) closeSheet();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return event.target.form?.requestSubmit();
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, textarea, select")) return;
    const found = SHORTCUTS.find(([key, , , where]) => key === event.key && where());
    if (!found) return;
    event.preventDefault();
    found[2]();
  });
  if (!$("help")) return;
  const rows = [["Ctrl ↵", "Generate"], ...SHORTCUTS.map(([key, words]) => [NAMES[key] ?? key, words]), ["Esc", "Close what is open"]];
  $("help").querySelector("dl").append(...rows.flatMap(([key, words]) => {
    const name = document.createElement("dt");
    name.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    return [name, Object.assign(document.createElement("dd"), { textContent: words })];
  }));
  $("lightbox").addEventListener("close", closeLightbox);
  shown("slider").addEventListener("input", slide);
  shown("before").addEventListener("error", () => { if (!shown("before").hidden) { compare(false); toast("The picture before is not there any more"); } });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-shot]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openLightbox(link);
  });
  const asked = new URLSearchParams(location.hash.slice(1)).get("image");
  const link = asked && document.querySelector(`a[data-shot="${CSS.escape(asked)}"]`);
  if (link) openLightbox(link);
}

// On a phone the form is a sheet over the page.
export function openSheet() {
  if (innerWidth > NARROW) return;
  $("desk").dataset.open = "";
  $("desk").querySelector("textarea").focus({ preventScroll: true });
}

export function closeSheet() {
  if (!("open" in ($("desk")?.dataset ?? {}))) return;
  delete $("desk").dataset.open;
  document.querySelector(".open-sheet").focus({ preventScroll: true });
}

// Pictures that are dropped anywhere on the page, or pasted.
export function takePictures(bring, dropped = bring) {
  addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  addEventListener("drop", (event) => {
    $("drop").classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    dropped(event.dataTransfer.files, event.target);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) bring(event.clipboardData.files);
  });
}

// <api-call data-body='{…}'>: the same request as curl, Python and JavaScript.
const SAMPLES = {
  curl: (url, body) => `curl ${url}/v1/jobs \\\n  -H "Authorization: Bearer $TENKAIGEN_KEY" \\\n  -H 'Content-Type: application/json' -H 'Prefer: wait=60' \\\n  -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`,
  Python: (url, body) => `import os\n\nimport httpx\n\njob = httpx.post(\n    "${url}/v1/jobs",\n    headers={"Authorization": f"Bearer {os.environ['TENKAIGEN_KEY']}", "Prefer": "wait=60"},\n    json=${python(body)},\n    timeout=70,\n).json()\nprint(job["images"][0]["url"])`,
  JavaScript: (url, body) => `const answer = await fetch("${url}/v1/jobs", {\n  method: "POST",\n  headers: {\n    Authorization: \`Bearer \${process.env.TENKAIGEN_KEY}\`,\n    "Content-Type": "application/json",\n    Prefer: "wait=60",\n  },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nconst job = await answer.json();\nconsole.log(job.images[0].url);`,
};
const CONSTANTS = new Map([[true, "True"], [false, "False"], [null, "None"]]);

function python(value) {
  if (CONSTANTS.has(value)) return CONSTANTS.get(value);
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one)}`).join(", ")}}`;
}

customElements.define("api-call", class extends HTMLElement {
  connectedCallback() {
    if (this.dataset.body) this.show(JSON.parse(this.dataset.body));
  }

  show(body) {
    const url = document.documentElement.dataset.publicUrl;
    const tabs = Object.assign(document.createElement("div"), { className: "tabs" });
    tabs.setAttribute("role", "tablist");
    tabs.ariaLabel = "Language";
    const text = Object.assign(document.createElement("pre"), { tabIndex: 0 });
    text.setAttribute("role", "tabpanel");
    text.ariaLabel = "Code";
    const copy = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: "Copy" });
    copy.addEventListener("click", () => copyText(text.textContent));
    const choose = (chosen) => {
      for (const tab of tabs.children) Object.assign(tab, { ariaSelected: String(tab === chosen), tabIndex: tab === chosen ? 0 : -1 });
      text.textContent = SAMPLES[chosen.textContent](url, body);
    };
    tabs.append(...Object.keys(SAMPLES).map((name) => {
      const tab = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      tab.setAttribute("role", "tab");
      tab.addEventListener("click", () => choose(tab));
      return tab;
    }));
    tabs.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      const all = [...tabs.children];
      const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
      choose(next);
      next.focus();
    });
    choose(tabs.firstElementChild);
    this.replaceChildren(tabs, text, copy);
  }
});

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not let this page copy; select the text instead.");
  }
}
