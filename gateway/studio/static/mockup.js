// A result on a product: moved by dragging or by sliders, sized, and kept in the metadata of its job.

import { call } from "./api.js";
import { $, fail, toast } from "./ui.js";

const MIDDLE = { placement_x: 50, placement_y: 50, placement_size: 80 };
const SIDES = ["placement_x", "placement_y", "placement_size"];

let listening = false;
let job = "";

export function openMockup({ job: id, src, metadata }) {
  const kept = JSON.parse(metadata);
  const fields = $("mockup").querySelector("form").elements;
  job = id;
  for (const name of SIDES) fields[name].value = kept[name] ?? MIDDLE[name];
  fields.cart_ref.value = kept.cart_ref ?? "";
  fields.product.value = ["t-shirt", "mug", "poster"].find((one) => (kept.product ?? "").toLowerCase().includes(one)) ?? "t-shirt";
  $("mockup").querySelector("[data-part=design]").src = src;
  listen();
  place();
  $("mockup").showModal();
}

function place() {
  const { product, placement_x: x, placement_y: y, placement_size: size } = $("mockup").querySelector("form").elements;
  $("mockup").querySelector("[data-part=scene]").dataset.product = product.value;
  const { style } = $("mockup").querySelector("[data-part=design]");
  Object.assign(style, { left: `${x.value}%`, top: `${y.value}%`, width: `${size.value}%` });
}

function listen() {
  if (listening) return;
  listening = true;
  const form = $("mockup").querySelector("form");
  const print = $("mockup").querySelector("[data-part=print]");
  let from = null;
  form.addEventListener("input", place);
  form.addEventListener("submit", (event) => {
    if (event.submitter?.value !== "save") return;
    event.preventDefault();
    save(form, event.submitter);
  });
  print.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    print.setPointerCapture(event.pointerId);
    from = { x: event.clientX - share("x", "width"), y: event.clientY - share("y", "height") };
  });
  print.addEventListener("pointermove", (event) => {
    if (!from) return;
    const box = print.getBoundingClientRect();
    form.elements.placement_x.value = ((event.clientX - from.x) / box.width) * 100;
    form.elements.placement_y.value = ((event.clientY - from.y) / box.height) * 100;
    place();
  });
  for (const type of ["pointerup", "pointercancel"]) print.addEventListener(type, () => { from = null; });

  // Where the middle of the picture is, in pixels of the print area.
  function share(axis, side) {
    return (form.elements[`placement_${axis}`].value / 100) * print.getBoundingClientRect()[side];
  }
}

async function save(form, button) {
  const { product, cart_ref: cart } = form.elements;
  const placement = Object.fromEntries(SIDES.map((name) => [name, Number(form.elements[name].value)]));
  button.disabled = true;
  try {
    const kept = await call("PATCH", `/v1/jobs/${job}`, { metadata: { product: product.value, ...placement, cart_ref: cart.value || null } });
    for (const opener of document.querySelectorAll(`[data-do=mockup][data-job="${job}"]`)) opener.dataset.metadata = JSON.stringify(kept.metadata);
    $("mockup").close();
    toast("Kept with the job");
  } catch (problem) {
    fail(problem);
  } finally {
    button.disabled = false;
  }
}
