// <turn-table>: pictures of one thing from all sides, turned by dragging, by arrow keys, by its slider, or by itself.

const STEP_MS = 220;
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 };
const still = matchMedia("(prefers-reduced-motion: reduce)");

customElements.define("turn-table", class extends HTMLElement {
  connectedCallback() {
    this.pictures = [...this.querySelectorAll("figure img")];
    this.angles = [...this.querySelectorAll("button[data-angle]")];
    this.slider = this.querySelector("input");
    this.button = this.querySelector("[data-part=turn]");
    this.slider.addEventListener("input", () => { this.stop(); this.show(Number(this.slider.value)); });
    this.angles.forEach((button, place) => button.addEventListener("click", () => { this.stop(); this.show(place); }));
    this.addEventListener("keydown", (event) => this.key(event));
    this.listenToDrags(this.querySelector("figure"));
    this.button.addEventListener("click", () => (this.turning ? this.stop() : this.start()));
    this.onStill = () => { this.button.hidden = still.matches; if (still.matches) this.stop(); };
    still.addEventListener("change", this.onStill);
    this.onStill();
    this.show(0);
  }

  disconnectedCallback() {
    still.removeEventListener("change", this.onStill);
    this.stop();
  }

  // Behind the last picture comes the first one again.
  show(n) {
    const count = this.pictures.length;
    this.at = ((n % count) + count) % count;
    this.pictures.forEach((picture, place) => { picture.hidden = place !== this.at; });
    this.angles.forEach((button, place) => { button.ariaPressed = String(place === this.at); });
    const { angle } = this.pictures[this.at].dataset;
    this.slider.value = this.at;
    this.slider.ariaValueText = `${angle} degrees`;
    this.querySelector("output").textContent = `${angle}°`;
  }

  key(event) {
    const by = KEYS[event.key];
    if (!by) return;
    event.preventDefault();
    this.stop();
    this.show(this.at + by);
  }

  // A drag across the whole picture turns once around.
  listenToDrags(figure) {
    let from = null;
    figure.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      figure.setPointerCapture(event.pointerId);
      this.stop();
      from = { x: event.clientX, at: this.at };
    });
    figure.addEventListener("pointermove", (event) => {
      if (from) this.show(from.at + Math.round(((event.clientX - from.x) / figure.clientWidth) * this.pictures.length));
    });
    for (const end of ["pointerup", "pointercancel"]) figure.addEventListener(end, () => { from = null; });
  }

  start() {
    this.turning = setInterval(() => this.show(this.at + 1), STEP_MS);
    this.button.ariaPressed = "true";
  }

  stop() {
    clearInterval(this.turning);
    this.turning = 0;
    this.button.ariaPressed = "false";
  }
});
