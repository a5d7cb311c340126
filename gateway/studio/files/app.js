// The page of /: everything it does it does through the public API, so it is also an example of a frontend.

const $ = (id) => document.getElementById(id);
const ENDED = ["completed", "failed", "canceled"];
const EXAMPLES = [
  "a red round creature with a blue hat, front view, on a beach",
  "a yellow pointy creature at night",
  "a green square creature, side view, in a forest",
];
const STAGES = { queued: "Queued", loading: "Loading the model", generating: "Drawing", storing: "Saving the picture" };

let key = keyOfAddress() ?? sessionStorage.getItem("key");
let current = null; // the job on the stage
let oldest = null; // the last picture of the list below it

// A key in the address is taken out of it at once, so that it stays out of the history.
function keyOfAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("key");
  if (found) history.replaceState(null, "", location.pathname);
  return found;
}

function start() {
  addEventListener("hashchange", () => { key = keyOfAddress() ?? key; enter(); });
  $("gate").addEventListener("submit", openWithKey);
  $("form").addEventListener("submit", draw);
  $("prompt").addEventListener("input", () => sessionStorage.setItem("prompt", $("prompt").value));
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  });
  $("example").addEventListener("click", () => fill(EXAMPLES[Math.floor(Math.random() * EXAMPLES.length)], ""));
  $("cancel").addEventListener("click", () => act("cancel"));
  $("retry").addEventListener("click", () => (current ? act("retry") : $("form").requestSubmit()));
  $("reuse").addEventListener("click", () => fill(current.prompt.input, current.params.seed));
  $("more").addEventListener("click", () => listRecent(oldest));
  $("prompt").value = sessionStorage.getItem("prompt") ?? "";
  enter();
}

async function enter() {
  if (!key) return ask();
  try {
    await listRecent(null);
    sessionStorage.setItem("key", key);
  } catch (problem) {
    if (problem.status === 401) return ask("This key is not valid, or no longer.");
    fail(problem);
  }
  $("gate").hidden = true;
  $("desk").hidden = false;
  $("prompt").focus({ preventScroll: true });
}

function ask(reason) {
  sessionStorage.removeItem("key");
  if (reason) $("gate-reason").textContent = reason;
  $("desk").hidden = true;
  $("gate").hidden = false;
  $("key").focus();
}

async function openWithKey(event) {
  event.preventDefault();
  key = $("key").value.trim();
  await enter();
}

async function draw(event) {
  event.preventDefault();
  const form = new FormData($("form"));
  const seed = form.get("seed");
  const body = { prompt: form.get("prompt"), size: form.get("size"), ...(seed && { seed: Number(seed) }) };
  current = null;
  await show(() => call("POST", "/v1/jobs", body));
}

const act = (verb) => show(() => call("POST", `/v1/jobs/${current.id}/${verb}`));

// From a call that answers a job to that job's end. A second click while one runs is not possible.
async function show(begin) {
  $("draw").disabled = true;
  try {
    render(await begin());
    await follow();
    if (current.status === "completed") await listRecent(null);
  } catch (problem) {
    fail(problem);
  } finally {
    $("draw").disabled = false;
  }
}

// Events tell each step; should the stream break, asking goes on where it stopped.
async function follow() {
  const id = current.id;
  while (current?.id === id && !ENDED.includes(current.status)) {
    try {
      for await (const job of events(`/v1/jobs/${id}/events`)) {
        if (current?.id !== id) return;
        render(job);
        if (ENDED.includes(job.status)) return;
      }
    } catch (problem) {
      if (problem.status) throw problem;
      $("stage-text").textContent = "Connecting again";
    }
    await new Promise((resume) => setTimeout(resume, current.poll_after_ms));
    await call("GET", `/v1/jobs/${id}`).then(render, (problem) => { if (problem.status) throw problem; });
  }
}

async function* events(path) {
  const answer = await request("GET", path);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
      const blocks = (text + value).split(/\r?\n\r?\n/);
      text = blocks.pop();
      yield* blocks.map(dataOf).filter(Boolean).map((data) => JSON.parse(data));
    }
  } finally {
    await reader.cancel();
  }
}

const dataOf = (block) =>
  block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");

function render(job) {
  const before = current?.id === job.id ? current.status : null;
  current = job;
  $("facts").hidden = job.status !== "completed";
  if (job.status === "completed") return before === job.status || showPicture(job);
  if (job.status === "canceled") return state("failed", "Canceled", "Nothing was kept.");
  if (job.status === "failed") return state("failed", "The picture was not drawn", job.error.message);
  $("stage-text").textContent = waiting(job);
  job.progress > 0 ? ($("progress").value = job.progress) : $("progress").removeAttribute("value");
  if (before !== job.status) state("wait");
}

function waiting(job) {
  if (job.stage === "queued" && job.queue_position > 1) return `Queued, ${job.queue_position - 1} before this one`;
  const left = job.eta_seconds >= 1 ? `, about ${Math.round(job.eta_seconds)} s` : "";
  const steps = job.stage === "generating" && job.steps ? ` ${job.step}/${job.steps}` : "";
  return (STAGES[job.stage] ?? "Working") + steps + left;
}

function showPicture(job) {
  const image = job.images[0];
  const address = new URL(image.url).pathname;
  $("picture").src = address;
  $("picture").width = image.width;
  $("picture").height = image.height;
  $("picture").alt = job.prompt.input;
  $("download").href = address;
  $("download").download = `${job.model}-${image.seed}.${address.split(".").pop()}`;
  $("facts-prompt").textContent = job.prompt.input;
  $("facts-seed").textContent = image.seed;
  $("facts-time").textContent = `${(job.timing.total_ms / 1000).toFixed(2)} s`;
  $("facts-cost").textContent = `$${(job.cost.usd_micros / 1e6).toFixed(6)}`;
  $("facts-model").textContent = job.model;
  state("picture", "Picture ready");
}

function state(name, title = "", text = "") {
  $("stage").dataset.state = name;
  $("error-title").textContent = title;
  $("error-text").textContent = text;
  $("status").textContent = [title, text].filter(Boolean).join(". ");
}

function fail(problem) {
  if (problem.status === 401) return ask("This key is not valid, or no longer.");
  $("facts").hidden = true;
  if (!ENDED.includes(current?.status)) current = null;
  state("failed", "That did not work", problem.message);
}

async function listRecent(after) {
  const page = await call("GET", `/v1/images?limit=24${after ? `&after=${after}` : ""}`);
  const tiles = page.data.map(tile);
  after ? $("recent").append(...tiles) : $("recent").replaceChildren(...tiles);
  oldest = page.last_id;
  $("more").hidden = !page.has_more;
}

function tile(image) {
  const picture = Object.assign(new Image(), { loading: "lazy", alt: `Picture with seed ${image.seed}`, width: 130, height: 130 });
  thumbnail(image).then((address) => { picture.src = address; }, () => { picture.alt = "No preview"; });
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.append(picture);
  button.addEventListener("click", () => open(image.job_id));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

// A thumbnail needs the credential, which an <img> cannot send.
async function thumbnail(image) {
  return URL.createObjectURL(await (await request("GET", new URL(image.thumbnail_url).pathname)).blob());
}

async function open(job) {
  if ($("draw").disabled) return;
  render(await call("GET", `/v1/jobs/${job}`));
  $("result").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function fill(prompt, seed) {
  $("prompt").value = prompt;
  $("seed").value = seed;
  sessionStorage.setItem("prompt", prompt);
  $("prompt").focus();
}

const call = async (method, path, body) => (await request(method, path, body)).json();

async function request(method, path, body) {
  const headers = { Authorization: `Bearer ${key}`, ...(body && { "Content-Type": "application/json" }) };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The gateway does not answer. Is it running?");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? `The gateway answered ${answer.status}.`), { status: answer.status });
}

start();
