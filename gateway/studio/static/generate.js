// The generate page: from a form to a picture on the stage.

import { call, ended, onJob, onReturn, part, randomId, unwatch, upload, watch } from "./api.js";
import { $, actions, announce, closeSheet, fail, openSheet, PICTURES, showCall, stageWords, takePictures, toast } from "./ui.js";

const EXAMPLES = [
  "a red round creature with a blue hat, front view, on a beach",
  "a yellow pointy creature at night",
  "a green square creature, side view, in a forest",
];
const DRAFT = "draft:/generate";
const FLOW = "flow_id";
const PRICE_AFTER_MS = 350;
const OWN_NAME = /^[0-9a-f]{8}-[0-9a-f-]{27}/; // as a download is called
const BLANK = { style: "", quality: "auto", num_images: "1", num_inference_steps: "", negative_prompt: "", enhance: false, references: [], loras: [] };

let form;
let current = null; // the job on the stage
let references = []; // {use: {image_id or upload_id}, role, src}
let loras = []; // {lora, scale, name}
let pricing = 0;

export function start() {
  form = $("desk");
  Object.assign(actions, {
    dice: () => setSeed(crypto.getRandomValues(new Uint32Array(1))[0], true),
    lock: (button) => setLock(button.ariaPressed !== "true"),
    example: () => fill({ prompt: EXAMPLES[Math.floor(Math.random() * EXAMPLES.length)] }),
    suggest, cancel, derive, retry,
    template: useTemplate,
    "add-lora": (select) => { addLora(select.value, select.selectedOptions[0].textContent); select.value = ""; },
    "same-seed": (button) => { setSeed(button.dataset.seed, true); openSheet(); toast("The next picture has this seed"); },
    "use-as-reference": (button) => addReference({ image_id: button.dataset.image }, button.dataset.src),
    mockup: (button) => import("./mockup.js").then(({ openMockup }) => openMockup(button.dataset)).catch(fail),
    repaint: (button) => {
      const known = references.find(({ use }) => use.image_id === button.dataset.image);
      mask(known ?? { use: { image_id: button.dataset.image }, role: "init", src: button.dataset.src });
    },
    "api-call": (button) => showCall(button.dataset.body ? JSON.parse(button.dataset.body) : body()),
  });
  form.addEventListener("submit", generate);
  form.addEventListener("input", changed);
  $("files").addEventListener("change", () => { bring($("files").files); $("files").value = ""; });
  takePictures(bring, dropped);
  restore();
  onJob(moved);
  onReturn(refreshRecent);
  if ($("stage").dataset.job && $("stage").querySelector(".easel:empty")) take($("stage").dataset.job);
  askPrice();
  if (innerWidth > 820 && !location.hash) $("prompt").focus({ preventScroll: true });
}

// The body of POST /v1/jobs, with what is left open left out.
function body() {
  const found = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  const { prompt, style, size, quality, seed, model, num_images, num_inference_steps, negative_prompt, product, enhance } = found;
  const metadata = { flow_id: flowId(), ...(product && { product }), ...(form.dataset.franchise && { franchise: form.dataset.franchise }) };
  return {
    prompt, ...(style && { style }), size,
    ...(quality !== "auto" && { quality }), ...(model && model !== "auto" && { model }),
    ...(seed && { seed: Number(seed) }), ...(Number(num_images) > 1 && { num_images: Number(num_images) }),
    ...(num_inference_steps && { num_inference_steps: Number(num_inference_steps) }),
    ...(negative_prompt && { negative_prompt }), ...(enhance && { enhance: true }),
    ...(loras.length && { loras: loras.map(({ lora, scale }) => ({ lora, scale })) }),
    ...(references.length && { references: inOrder().map(({ use, role }) => ({ ...use, ...(role !== "reference" && { role }) })) }),
    ...(masked() && { mask: masked().mask }),
    metadata,
  };
}

const masked = () => references.find((one) => one.mask);

// A mask lies on the picture to draw over, or else on the first.
const inOrder = () => [...references].sort((one, other) => Boolean(other.mask) - Boolean(one.mask));

// One wish, from the first words to the cart, is one flow.
function flowId() {
  const known = sessionStorage.getItem(FLOW) ?? randomId();
  sessionStorage.setItem(FLOW, known);
  return known;
}

async function generate(event) {
  event.preventDefault();
  if (current && !ended(current)) return toast("One is being drawn; cancel it first, or wait.");
  closeSheet();
  await begin(() => call("POST", "/v1/jobs", body(), { "Idempotency-Key": randomId() }));
}

// From a call that answers a job to its first sign on the stage.
async function begin(create) {
  $("draw").disabled = true;
  try {
    take(await create());
  } catch (problem) {
    refused(problem);
  } finally {
    $("draw").disabled = false;
  }
}

async function take(jobOrId) {
  const job = typeof jobOrId === "string" ? await call("GET", `/v1/jobs/${jobOrId}`) : jobOrId;
  if (current) unwatch(current.id);
  current = job;
  history.replaceState(null, "", `/generate?job=${job.id}`);
  if (ended(job)) return show(job);
  $("stage").replaceChildren($("waiting").content.cloneNode(true));
  announce("Generating your design");
  progress(job);
  watch(job);
}

function moved(job, event) {
  if (job.id !== current?.id) return ended(job) && job.images.length ? addRecent(job) : undefined;
  const stage = current.stage;
  current = job;
  if (ended(job)) return show(job);
  progress(job);
  if (event === "preview") preview(job.preview);
  if (job.stage !== stage) announce(stageWords({ ...job, step: 0 }));
}

function progress(job) {
  const stage = $("stage");
  const bar = stage.querySelector("progress");
  if (!bar) return;
  stage.querySelector("[data-part=stage]").textContent = stageWords(job);
  stage.querySelector("[data-part=left]").textContent = job.eta_seconds >= 1 ? `about ${Math.round(job.eta_seconds)} s left` : "";
  job.progress > 0 ? (bar.value = job.progress) : bar.removeAttribute("value");
}

function preview({ content_type, b64_json }) {
  const image = $("stage").querySelector(".preview");
  if (!image) return;
  image.src = `data:${content_type};base64,${b64_json}`;
  image.hidden = false;
  image.closest(".easel").classList.add("has-preview");
}

// The end of a job on the stage; whatever has the focus outside of it keeps it.
async function show(job) {
  try {
    const result = await part(`/ui/jobs/${job.id}/result`);
    if (current.id !== job.id) return;
    $("stage").replaceChildren(result);
    $("stage").dataset.job = job.id;
  } catch (problem) {
    return fail(problem);
  }
  announce({ completed: "Picture ready", failed: "The picture was not drawn", canceled: "Canceled" }[job.status]);
  if (job.status === "completed") addRecent(job);
  if ($("desk").querySelector("[data-do=lock]").ariaPressed !== "true") $("seed").value = "";
  save();
}

async function addRecent(job) {
  if (document.querySelector(`#recent [data-tile="${job.images[0].id}"]`)) return;
  const fresh = await part(`/ui/jobs/${job.id}/card`);
  if (document.querySelector(`#recent [data-tile="${job.images[0].id}"]`)) return;
  $("recent").prepend(fresh);
  $("recent").closest("section").hidden = false;
}

// What other pages and programs drew while the stream was away.
async function refreshRecent() {
  const { data } = await call("GET", "/v1/jobs?task=image&status=completed&limit=10").catch(() => ({ data: [] }));
  for (const job of data.reverse()) if (job.images.length) await addRecent(job);
}

// The API says no before there is a job.
function refused(problem) {
  const easel = Object.assign(document.createElement("div"), { className: "easel" });
  const message = Object.assign(document.createElement("div"), { className: "message" });
  message.setAttribute("role", "alert");
  const title = Object.assign(document.createElement("h2"), { className: "bad", textContent: problem.title ?? "That did not work" });
  const text = Object.assign(document.createElement("p"), { textContent: problem.message });
  const again = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
  again.addEventListener("click", () => form.requestSubmit());
  const help = Object.assign(document.createElement("a"), { href: "/settings#support", textContent: "Get help", className: "muted" });
  message.append(title, text, again, help);
  easel.append(message);
  $("stage").replaceChildren(easel);
  current = null;
}

async function cancel(button) {
  button.disabled = true;
  try {
    const job = await call("POST", `/v1/jobs/${current.id}/cancel`);
    if (ended(job)) moved(job, "canceled");
  } catch (problem) {
    button.disabled = false;
    fail(problem);
  }
}

const derive = ({ dataset }) => begin(() => call("POST", dataset.path, JSON.parse(dataset.body), { "Idempotency-Key": randomId() }));
const retry = (button) => begin(() => call("POST", `/v1/jobs/${button.dataset.job}/retry`));

// Drafts: kept for the tab, through reloads and restarts.
function changed() {
  save();
  clearTimeout(pricing);
  pricing = setTimeout(askPrice, PRICE_AFTER_MS);
}

function save() {
  const fields = Object.fromEntries(new FormData(form));
  const locked = form.querySelector("[data-do=lock]").ariaPressed;
  sessionStorage.setItem(DRAFT, JSON.stringify({ ...fields, enhance: form.elements.enhance.checked, locked, references, loras }));
}

function restore() {
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
  if (draft && !form.dataset.recalled) return fill(draft);
  recall();
}

// Another job's request was asked for; the server has filled in its words and choices.
function recall() {
  ({ references, loras } = listed(form.dataset));
  drawReferences();
  drawLoras();
}

// The pictures and LoRAs of a request, as the server lists them on the form.
function listed(data) {
  const pictures = JSON.parse(data.references).map(({ role, ...use }) => ({ use, role: role ?? "reference", src: pictureOf(use) }));
  const under = pictures.find(({ role }) => role === "init") ?? pictures[0];
  if (data.mask && under) under.mask = JSON.parse(data.mask);
  return { references: pictures, loras: JSON.parse(data.loras).map(({ lora, name, scale }) => ({ lora, name: name ?? lora, scale })) };
}

const pictureOf = ({ image_id, upload_id, url }) => (image_id ? `/v1/images/${image_id}/thumbnail` : upload_id ? `/v1/uploads/${upload_id}/content` : url);

function fill(draft) {
  for (const [name, value] of Object.entries(draft)) {
    if (name === "size") offerSize(value);
    const field = form.elements[name];
    if (field?.type === "checkbox") field.checked = value;
    else if (field && typeof value === "string") field.value = value;
  }
  if (draft.locked) setLock(draft.locked === "true");
  if (draft.references) references = draft.references;
  if (draft.loras) loras = draft.loras;
  drawReferences();
  drawLoras();
  changed();
}

// A size that is none of the named ones is a chip of its own.
function offerSize(size) {
  const chips = [...form.querySelectorAll("[name=size]")];
  if (!size || chips.some((chip) => chip.value === size)) return;
  const label = chips.at(-1).closest("label").cloneNode(true);
  label.title = size;
  label.querySelector("input").value = size;
  label.querySelector("span").textContent = size;
  chips.at(-1).closest("label").after(label);
}

async function askPrice() {
  const words = form.elements.prompt.value.trim();
  try {
    const estimate = await call("POST", "/v1/jobs/estimate", { ...body(), prompt: words || "a picture", metadata: {} });
    const cost = estimate.estimated_usd_micros / 1e6;
    const time = estimate.eta_seconds === null ? "" : `about ${Math.max(1, Math.round(estimate.eta_seconds))} s · `;
    $("price").textContent = `${time}$${cost >= 0.01 ? cost.toFixed(2) : cost.toPrecision(2)}`;
    $("price").title = estimate.warnings.map((warning) => warning.message).join(" ");
  } catch (problem) {
    $("price").textContent = problem.message; // what is asked for cannot be drawn, and why
  }
}

function setSeed(seed, locked) {
  $("seed").value = seed;
  setLock(locked);
  changed();
}

function setLock(locked) {
  form.querySelector("[data-do=lock]").ariaPressed = String(locked);
  save();
}

// Style, product and franchise as the words name them.
async function suggest(button) {
  const prompt = form.elements.prompt.value.trim();
  if (!prompt) return $("prompt").focus();
  button.disabled = true;
  try {
    const found = await call("POST", "/v1/prompts/parse", { prompt });
    if (found.style) form.elements.style.value = found.style;
    if (found.product) form.elements.product.value = found.product;
    found.franchise ? (form.dataset.franchise = found.franchise) : delete form.dataset.franchise;
    const named = [found.style && `style ${found.style}`, found.product && `product ${found.product}`, found.franchise].filter(Boolean);
    toast(named.length ? `Found: ${named.join(", ")}` : "These words name no style of ours and no product");
    changed();
  } catch (problem) {
    fail(problem);
  } finally {
    button.disabled = false;
  }
}

async function useTemplate(select) {
  const { value: id, selectedOptions: [chosen] } = select;
  select.value = "";
  if (!id) return;
  const dialog = $("template-dialog");
  const defaults = JSON.parse(chosen.dataset.defaults);
  dialog.querySelector("[data-part=fields]").replaceChildren(...JSON.parse(chosen.dataset.variables).map((name) => {
    const field = Object.assign(document.createElement("label"), { className: "field", textContent: name });
    field.append(Object.assign(document.createElement("input"), { name, value: defaults[name] ?? "", required: !(name in defaults) }));
    return field;
  }));
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  if (dialog.returnValue !== "use") return;
  const variables = Object.fromEntries(new FormData(dialog.querySelector("form")));
  call("POST", `/v1/prompt-templates/${id}/render`, { variables }).then(({ prompt }) => fill({ prompt }), fail);
}

// Pictures to draw from: chosen, dropped anywhere, or pasted.
async function bring(files) {
  for (const file of files) {
    if (!PICTURES.includes(file.type)) {
      toast(`${file.name} is no PNG, JPEG or WebP picture`);
      continue;
    }
    try {
      addReference({ upload_id: await upload(file) }, null);
    } catch (problem) {
      fail(problem);
    }
  }
}

// A picture made here brings its settings along. Any other is drawn from, and so is each that is dropped on the
// references; nothing that was typed is lost.
async function dropped(files, where) {
  const recipe = files.length === 1 && !where.closest?.("#drop") && (await readRecipe(files[0]));
  if (!recipe) return bring(files);
  save();
  const before = JSON.parse(sessionStorage.getItem(DRAFT));
  try {
    fill({ ...BLANK, ...(recipe.job_id ? await settingsOf(recipe.job_id) : settingsIn(recipe)), locked: "true" });
  } catch (problem) {
    return fail(problem);
  }
  openSheet();
  toast("These are the settings of the picture", { undo: () => fill(before) });
}

// What the file says drew it; null where it is none of ours. A signed recipe is text in the file, in every format.
async function readRecipe(file) {
  if (!PICTURES.includes(file.type)) return null;
  if (!OWN_NAME.test(file.name) && !(await file.text()).includes('"signature":')) return null;
  const sent = new FormData();
  sent.append("file", file);
  const answer = await fetch("/v1/recipes", { method: "POST", body: sent }).catch(() => null);
  return answer?.ok ? answer.json() : null;
}

// The form as the server fills it for this job.
async function settingsOf(job) {
  const page = new DOMParser().parseFromString(await (await fetch(`/generate?from=${job}`)).text(), "text/html");
  const desk = page.getElementById("desk");
  const fields = Object.fromEntries(new FormData(desk));
  return { ...fields, enhance: "enhance" in fields, ...listed(desk.dataset) };
}

function settingsIn({ prompt, model, width, height, seed, num_inference_steps }) {
  const size = [...form.querySelectorAll("[name=size]")].find((one) => one.closest("label").title === `${width} × ${height}`);
  const known = [...form.elements.model.options].some((option) => option.value === model);
  return { prompt, seed: String(seed), size: size?.value ?? `${width}x${height}`, num_inference_steps: String(num_inference_steps), ...(known && { model }) };
}

function addReference(use, src) {
  const added = { use, role: "reference", src: src ?? pictureOf(use) };
  references.push(added);
  drawReferences();
  openSheet();
  changed();
  announce("Reference added");
  return added;
}

const wholeOf = ({ image_id, upload_id }) => (image_id ? `/v1/images/${image_id}/content` : `/v1/uploads/${upload_id}/content`);

// Where a picture is drawn anew; there is one mask, so another picture loses its own.
async function mask(one) {
  try {
    const { paintMask } = await import("./mask.js");
    const painted = await paintMask(wholeOf(one.use), one.strokes ?? [], Boolean(one.mask), upload);
    if (!painted) return;
    for (const each of references) {
      delete each.mask;
      delete each.strokes;
      if (painted.sent && each.role === "init") each.role = "reference"; // there is one picture to draw over
    }
    if (painted.sent && !references.includes(one)) references.push(one);
    if (painted.sent) Object.assign(one, { role: "init", mask: { upload_id: painted.sent }, strokes: painted.strokes });
    drawReferences();
    changed();
    toast(painted.sent ? "What is painted will be drawn anew" : "The whole picture is drawn from");
    openSheet();
    $("refs").querySelectorAll("[data-part=paint]")[references.indexOf(one)]?.focus({ preventScroll: true });
  } catch (problem) {
    fail(problem);
  }
}

function drawReferences() {
  $("refs").replaceChildren(...references.map((one, n) => {
    const item = $("reference").content.cloneNode(true).firstElementChild;
    item.querySelector("img").src = one.src;
    const role = item.querySelector("select");
    role.value = one.role;
    role.addEventListener("input", () => { one.role = role.value; });
    const brush = item.querySelector("[data-part=paint]");
    brush.hidden = Boolean(one.use.url);
    brush.ariaPressed = String(Boolean(one.mask));
    brush.addEventListener("click", () => mask(one));
    item.classList.toggle("masked", Boolean(one.mask));
    item.querySelector("[data-part=remove]").addEventListener("click", () => drop(references, n, drawReferences, "#refs"));
    return item;
  }));
}

function addLora(lora, name) {
  if (!lora || loras.some((one) => one.lora === lora)) return;
  loras.push({ lora, name, scale: 1 });
  drawLoras();
  changed();
}

function drawLoras() {
  $("loras")?.replaceChildren(...loras.map((one, n) => {
    const item = $("lora").content.cloneNode(true).firstElementChild;
    item.querySelector("span").textContent = one.name;
    const scale = item.querySelector("input");
    scale.value = one.scale;
    scale.addEventListener("input", () => { one.scale = Number(scale.value); });
    item.querySelector("button").addEventListener("click", () => drop(loras, n, drawLoras, "#loras"));
    return item;
  }));
}

// Take one out of a list; it comes back at its place if asked.
function drop(list, n, draw, where) {
  const [gone] = list.splice(n, 1);
  draw();
  changed();
  (document.querySelector(`${where} button`) ?? $("prompt")).focus({ preventScroll: true });
  toast("Removed", { undo: () => { list.splice(n, 0, gone); draw(); changed(); } });
}
