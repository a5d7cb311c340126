// The mask: where on a picture it is drawn anew. White on black, as `mask` of POST /v1/jobs takes it.
// What is painted is a list of strokes in parts of the picture's width and height, so that it can be undone,
// kept with the draft and drawn at any size: {points: [[x, y], …], width} or {frame: [x, y, width, height]}.

import { $, announce, fail, toast } from "./ui.js";

const LONGEST = 1024; // pixels of the mask's longer side
const STEP = 0.05;
const START = [0.25, 0.25, 0.5, 0.5];
const PAINT = "#f2a93b";

let strokes = [];
let stroke = null; // the one that is being painted
let frame = START;
let deliver = null;
let sent = null;
let ready = false;

const dialog = () => $("mask");
const one = (name) => dialog().querySelector(`[data-part=${name}]`);
const erasing = () => dialog().querySelector("[name=mask-tool]:checked").value === "erase";
const share = (value) => Math.round(value * 1e4) / 1e4;
const held = (value, most = 1) => share(Math.min(most, Math.max(0, value)));

// What was painted and where it was sent, as `send` answers for its PNG file; neither, to take the mask away; null
// to leave it be. The dialog stays until the file has arrived.
export async function paintMask(src, before, removable, send) {
  strokes = structuredClone(before);
  frame = START;
  one("remove").hidden = !removable;
  deliver = send;
  sent = null;
  listen();
  const picture = one("picture");
  picture.src = src;
  dialog().returnValue = "";
  dialog().showModal();
  try {
    await picture.decode();
  } catch {
    dialog().close();
    throw new Error("The picture could not be shown.");
  }
  const scale = LONGEST / Math.max(picture.naturalWidth, picture.naturalHeight);
  Object.assign(one("canvas"), { width: Math.round(picture.naturalWidth * scale), height: Math.round(picture.naturalHeight * scale) });
  draw();
  await new Promise((closed) => dialog().addEventListener("close", closed, { once: true }));
  if (!dialog().returnValue) return null;
  return sent ? { strokes, sent } : { strokes: [] };
}

async function asFile({ width, height }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d");
  pen.fillRect(0, 0, width, height);
  for (const each of strokes) paint(pen, each, each.erase ? "#000" : "#fff");
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return new File([blob], "mask.png", { type: "image/png" });
}

function draw() {
  const pen = one("canvas").getContext("2d");
  pen.clearRect(0, 0, pen.canvas.width, pen.canvas.height);
  for (const each of stroke ? [...strokes, stroke] : strokes) {
    pen.globalCompositeOperation = each.erase ? "destination-out" : "source-over";
    paint(pen, each, PAINT);
  }
  pen.globalCompositeOperation = "source-over";
  one("undo").disabled = one("clear").disabled = !strokes.length;
  const [x, y, width, height] = frame;
  Object.assign(one("frame").style, { left: `${x * 100}%`, top: `${y * 100}%`, width: `${width * 100}%`, height: `${height * 100}%` });
}

function paint(pen, { points, width, frame: box }, color) {
  const { width: w, height: h } = pen.canvas;
  pen.fillStyle = pen.strokeStyle = color;
  if (box) return pen.fillRect(box[0] * w, box[1] * h, box[2] * w, box[3] * h);
  Object.assign(pen, { lineWidth: width * w, lineCap: "round", lineJoin: "round" });
  pen.beginPath();
  pen.moveTo(points[0][0] * w, points[0][1] * h);
  for (const [x, y] of points.length > 1 ? points.slice(1) : points) pen.lineTo(x * w, y * h);
  pen.stroke();
}

function listen() {
  if (ready) return;
  ready = true;
  const canvas = one("canvas");
  const place = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    return [share((clientX - box.left) / box.width), share((clientY - box.top) / box.height)];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    stroke = { points: [place(event)], width: one("brush").value / 100, ...(erasing() && { erase: true }) };
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    stroke.points.push(...(event.getCoalescedEvents?.() ?? [event]).map(place));
    draw();
  });
  const end = () => {
    if (stroke) strokes.push(stroke);
    stroke = null;
    draw();
  };
  for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, end);
  canvas.addEventListener("keydown", moveFrame);
  one("undo").addEventListener("click", () => { strokes.pop(); draw(); announce(strokes.length ? "Last stroke undone" : "Nothing is painted"); });
  one("clear").addEventListener("click", () => {
    const gone = strokes;
    strokes = [];
    draw();
    toast("All paint removed", { undo: () => { strokes = gone; draw(); } });
  });
  dialog().addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) one("undo").click();
  });
  dialog().querySelector("form").addEventListener("submit", (event) => {
    if (event.submitter?.value !== "use") return;
    event.preventDefault();
    strokes.some((each) => !each.erase) ? use(event.submitter) : toast("Paint something first, or cancel");
  });
}

async function use(button) {
  button.disabled = true;
  try {
    sent = await deliver(await asFile(one("canvas")));
    dialog().close("use");
  } catch (problem) {
    fail(problem);
  } finally {
    button.disabled = false;
  }
}

// Without a mouse: arrows move the frame, Shift and an arrow size it, Space or Enter paint what it holds.
function moveFrame(event) {
  const by = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const [x, y, width, height] = frame;
  if (by && event.shiftKey) frame = [x, y, held(Math.max(STEP, width + by[0]), 1 - x), held(Math.max(STEP, height + by[1]), 1 - y)];
  else if (by) frame = [held(x + by[0], 1 - width), held(y + by[1], 1 - height), width, height];
  else if (event.key === " " || event.key === "Enter") strokes.push({ frame, ...(erasing() && { erase: true }) });
  else return;
  event.preventDefault();
  event.stopPropagation();
  draw();
  const [left, top, wide, high] = frame.map((value) => Math.round(value * 100));
  announce(by ? `Frame ${left} % from the left, ${top} % from the top, ${wide} % wide, ${high} % high` : erasing() ? "Erased" : "Painted");
}
