// What pictures would cost, asked of the API before anything is drawn.

import { call } from "./api.js";

// The estimate counts the pictures that are drawn from; it does not look at them.
const ANY_PICTURE = { image_id: "00000000-0000-4000-8000-000000000000" };
export const fromPicture = { references: [ANY_PICTURE] };

// Dollars, with as many digits as small amounts need; the server writes them the same way.
export function money(micros) {
  const dollars = micros / 1e6;
  if (dollars >= 1 || dollars === 0) return `$${dollars.toFixed(2)}`;
  return `$${dollars.toFixed(dollars >= 0.0001 ? 4 : 6)}`;
}

export const estimate = (body) => call("POST", "/v1/jobs/estimate", { prompt: "a picture", ...body });

// Of [{times, …body of POST /v1/jobs}] together, in micro-dollars.
export async function costOf(wanted) {
  const costs = await Promise.all(wanted.map(async ({ times, ...body }) => {
    return times * (await estimate(body)).estimated_usd_micros;
  }));
  return costs.reduce((sum, one) => sum + one, 0);
}

// "Cost: $0.0040 (what)" on an element; nothing where it is not known.
export async function showCost(element, wanted, what) {
  try {
    element.textContent = `Cost: ${money(await costOf(wanted))} (${what})`;
  } catch {
    element.textContent = "";
  }
}
