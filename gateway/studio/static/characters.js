// Pages of characters: a new one, its profile, and the workspace of its pictures.

import { call, ended, onJob, randomId, upload } from "./api.js";
import { $, actions, announce, fail, stageWords, takePictures, toast } from "./ui.js";
import { keepLive, refreshLive } from "./live.js";
import { fromPicture, showCost } from "./prices.js";
import "./turn.js";

const REFERENCE = "reference image generation";
const PORTRAIT = { size: "ref_portrait" };
const ANGLES = 8;

export function start(page) {
  if (page === "new-character") return startNew();
  if (page === "character-images") return startImages();
  actions.profile = saveProfile;
  document.addEventListener("input", (event) => { event.target.form?.setAttribute("data-dirty", ""); });
  keepLive();
}

// A new character

let photo = null;

function startNew() {
  const form = $("new-character");
  const choose = () => {
    const { value } = form.elements.source;
    for (const one of form.querySelectorAll("[data-source]")) one.hidden = one.dataset.source !== value;
    $("says").textContent = SAYS[value];
    showCost($("cost"), pictures(value), REFERENCE);
  };
  form.addEventListener("change", ({ target }) => { if (target.name === "source") choose(); });
  form.addEventListener("submit", create);
  $("photo").addEventListener("change", () => { keepPhoto([...$("photo").files]); });
  takePictures((files) => keepPhoto([...files]));
  choose();
}

const SAYS = { photo: "A profile, a portrait and three views", description: "A portrait and three views", lora: "Three views, drawn with the LoRA" };

function pictures(source) {
  if (source === "lora") return [{ times: 3, ...PORTRAIT }];
  return [{ times: 1, ...PORTRAIT, ...(source === "photo" && fromPicture) }, { times: 3, ...PORTRAIT, ...fromPicture }];
}

function keepPhoto([file]) {
  if (!file) return;
  photo = file;
  const shown = $("photo-shown");
  if (shown.src) URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(file);
  shown.hidden = false;
  announce(`Photo ${file.name} chosen`);
}

async function create(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button.primary");
  button.disabled = true;
  $("problem").hidden = true;
  try {
    const character = await call("POST", "/v1/characters", await wish(form), { "Idempotency-Key": randomId() });
    location.href = `/characters/${character.id}`;
  } catch (problem) {
    $("problem").textContent = problem.message;
    $("problem").hidden = false;
    button.disabled = false;
  }
}

async function wish(form) {
  const said = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  const { name, source, style, gender, age, ethnicity, description, lora, project_id } = said;
  const kept = lines(said.do_not_change ?? "");
  const body = {
    name, source, ...(project_id && { project_id }), ...(style && { style }), ...(gender && { gender }), ...(age && { age }), ...(ethnicity && { ethnicity }),
    ...(kept.length && { attributes: { do_not_change: kept } }),
  };
  if (source === "description") return { ...body, ...(description && { description }) };
  if (source === "lora") return { ...body, ...(lora && { lora }) };
  if (!photo) throw new Error("Choose a photo first.");
  if (!form.elements.consent.checked) throw new Error("Whoever is in the photo has to agree first.");
  return { ...body, upload_id: await upload(photo), consent: true };
}

const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const LISTS = { color_palette: (text) => lines(text.replaceAll(",", "\n")), do_not_change: lines };

// Its profile

async function saveProfile(form) {
  const body = {};
  const profile = {};
  for (const field of form.elements) {
    const { name, value } = field;
    if (field.dataset.list) profile[field.dataset.list] = LISTS[field.dataset.list](value);
    else if (name && value.trim() && value !== field.defaultValue) (field.matches("[data-trait]") ? profile : body)[name] = value.trim();
  }
  const trait = $("trait-name").value.trim().toLowerCase().replaceAll(/\s+/g, "_");
  if (trait && $("trait-value").value.trim()) profile[trait] = $("trait-value").value.trim();
  try {
    await call("PATCH", form.dataset.apiPath, { ...body, profile });
  } catch (problem) {
    return fail(problem);
  }
  form.removeAttribute("data-dirty");
  document.activeElement.blur();
  toast("Profile saved");
  await refreshLive();
  $("profile").querySelector("button.primary")?.focus({ preventScroll: true });
}

// The workspace of its pictures

let suggested;
const drawing = new Map(); // pending tile -> since when

function startImages() {
  suggested = $("prompt").dataset.suggestion;
  Object.assign(actions, {
    draw,
    "reset-prompt": () => { $("prompt").value = suggested; $("prompt").focus(); },
  });
  document.addEventListener("fresh", ({ detail }) => {
    const latest = detail.getElementById("prompt").dataset.suggestion;
    if ($("prompt").value === suggested && document.activeElement !== $("prompt")) $("prompt").value = latest;
    suggested = latest; // what was typed stays; Reset brings the latest
  });
  onJob(showStage);
  keepLive(ended);
  const form = $("prompt").form;
  const costs = () => showCost($("cost-reference"), [{ times: 1, ...PORTRAIT, num_images: Number(form.elements.num_images.value) }], REFERENCE);
  form.addEventListener("change", ({ target }) => { if (target.name === "num_images") costs(); });
  costs();
  showCost($("cost-portfolio"), [{ times: ANGLES, ...PORTRAIT, ...fromPicture }], `${ANGLES} angles`);
  showCost($("cost-scene"), [{ times: 1, ...fromPicture }], "a scene");
}

async function draw(form) {
  const fields = Object.fromEntries(new FormData(form));
  const { keep, num_images: count, ...body } = fields;
  if (keep) body.history_policy = "keep";
  if (count) body.num_images = Number(count);
  const words = body.prompt ?? body.sceneContext ?? "All the way round";
  const tile = pendingTile(form.dataset.kind, words);
  drawing.set(tile, Date.now());
  actions["close-sheet"]();
  announce(`${form.dataset.kind} is being drawn`);
  try {
    const answer = await call("POST", form.dataset.path, body, { "Idempotency-Key": randomId() });
    if (answer.object === "job") await over(answer);
    tile.remove();
    announce(`${form.dataset.kind} ready`);
  } catch (problem) {
    failed(tile, problem, form);
  } finally {
    drawing.delete(tile);
    await refreshLive();
  }
}

// Longer than a request is held: until the job says how it ended.
const over = (asked) => new Promise((resolve, reject) => {
  const look = async () => {
    const job = await call("GET", `/v1/jobs/${asked.id}`).catch(() => asked);
    if (job.status === "completed") return resolve();
    if (ended(job)) return reject(new Error(job.error?.message ?? "It was canceled."));
    setTimeout(look, job.poll_after_ms);
  };
  look();
});

function pendingTile(kind, words) {
  const tile = $("pending").content.cloneNode(true).firstElementChild;
  tile.querySelector(".words").textContent = words;
  tile.querySelector(".tag").textContent = kind;
  $("grid").prepend(tile);
  return tile;
}

// The newest tile tells how far the job is that moves.
function showStage(job) {
  const tile = [...drawing.keys()].at(-1);
  if (!tile || ended(job)) return;
  tile.querySelector("[data-part=stage]").textContent = stageWords(job);
  const bar = tile.querySelector("progress");
  job.progress > 0 ? (bar.value = job.progress) : bar.removeAttribute("value");
}

function failed(tile, problem, form) {
  tile.className = "card failed";
  const words = Object.assign(document.createElement("p"), { className: "bad", textContent: problem.message });
  words.setAttribute("role", "alert");
  const again = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: "Try again" });
  again.addEventListener("click", () => { tile.remove(); form.requestSubmit(); });
  const away = Object.assign(document.createElement("button"), { type: "button", className: "ghost small", textContent: "Dismiss" });
  away.addEventListener("click", () => tile.remove());
  tile.querySelector(".wait").replaceChildren(words, again, away);
  Object.assign(tile.querySelector(".status"), { textContent: "Failed" }).dataset.status = "failed";
}
