// The panel of the camera path: words, or keyframes once one was dragged. `wish()` is what the server is asked for.
import { turned } from "./geometry.js";

const byId = name => document.getElementById(name);
const ARROWS = { pan_right: "↷", pan_left: "↶", tilt_up: "⤒", tilt_down: "⤓", zoom_in: "⊕", zoom_out: "⊖",
                 translate_up: "↑", translate_down: "↓", arc_left: "◜", arc_right: "◝" };
const MOVE = /^\s*([a-z_]+)(.*)$/;

export class PathPanel {
  constructor(changed) {
    this.changed = changed;  // (done): done is false while something is being dragged
    Object.assign(this, { keys: [], selected: -1, lookAt: true, edited: false, presets: {} });
    byId("path").oninput = () => this.#text(byId("path").value, false);
    byId("amount").oninput = () => this.#rewrite({ amount: +byId("amount").value });
    byId("speed").onchange = () => this.edited ? changed(true) : this.#rewrite({ speed: byId("speed").value });
    byId("lookAt").onchange = () => { this.lookAt = byId("lookAt").checked; if (!this.edited) this.#rewrite({}); };
    byId("words").onclick = () => { this.edited = false; this.selected = -1; this.#shown(); changed(true); };
    byId("count").onchange = () => this.#resampled(+byId("count").value);
    byId("zoom").oninput = () => this.#key(key => { key.zoom = 4 ** (byId("zoom").value / 100); });
    for (const button of document.querySelectorAll("[data-turn]"))
      button.onclick = () => this.#key(key => { key.c2w = turned(key.c2w, ...button.dataset.turn.split(",").map(Number)); });
    for (let i = 2; i <= 12; i++) byId("count").add(new Option(i, i, i === 5, i === 5));
  }

  offer(presets, speeds) {
    if (byId("speed").length) return;
    this.presets = presets;
    for (const speed of speeds) byId("speed").add(new Option(speed.replace("_", " "), speed));
    for (const [name, { unit, amount }] of Object.entries(presets)) {
      const button = document.createElement("button"), arrow = document.createElement("b");
      arrow.textContent = ARROWS[name] ?? "•";
      button.append(arrow, name.replace("_", " "));
      button.dataset.preset = name;
      button.onclick = () => this.#text(this.#words({ name, amount: unit === "m" ? Math.min(amount, 1) : Math.min(amount, 10), unit }), true);
      byId("presets").append(button);
    }
    this.#text(this.#words({ name: "arc_left", amount: 10, unit: "deg" }), true);
  }

  #words({ name, amount, unit }) {
    const speed = byId("speed").value;
    return [name, amount + unit, speed === "linear" ? "" : speed, this.lookAt ? "" : "free"].filter(Boolean).join(" ");
  }

  #text(text, fill) {
    if (fill) byId("path").value = text;
    this.edited = false;
    this.selected = -1;
    this.#shown();
    this.changed(true);
  }

  #rewrite({ amount, speed }) {  // every move gets the speed; the amount is a single move's
    const moves = byId("path").value.split(/(;|\+(?=\s*[A-Za-z]))/).map(part => {
      const match = part.match(MOVE);
      if (!match) return part;
      let words = match[2].trim().split(/\s+/).filter(Boolean);
      if (speed !== undefined) words = words.filter(word => !/^(linear|ease|ease_in|ease_out)$/.test(word)).concat(speed === "linear" ? [] : speed);
      if (amount !== undefined) words = [amount + this.#unit(match[1]), ...words.filter(word => !/^[-+.\d]/.test(word) || word.endsWith("%"))];
      words = words.filter(word => word !== "free").concat(this.lookAt ? [] : "free");
      return [match[1], ...words].join(" ");
    });
    byId("path").value = moves.map(part => part === ";" ? "; " : part === "+" ? " + " : part).join("");
    this.#shown();
    this.changed(true);
  }

  #unit(name) { return this.presets[name]?.unit ?? (/^(orbit|roll)/.test(name) ? "deg" : /^lens/.test(name) ? "x" : "m"); }

  get single() {  // name and amount of the only move
    const text = byId("path").value, match = text.match(MOVE);
    if (!match || /;|\+\s*[A-Za-z]/.test(text)) return null;
    const amount = match[2].match(/[-+]?\d*\.?\d+/);
    return { name: match[1], amount: amount ? +amount[0] : this.presets[match[1]]?.amount ?? 1 };
  }

  #shown() {
    const single = this.edited ? null : this.single, slider = byId("amount"), unit = single && this.#unit(single.name);
    byId("keysNote").hidden = !this.edited;
    byId("path").classList.toggle("faint", this.edited);
    slider.disabled = !single;
    if (single) {
      [slider.min, slider.max, slider.step] = unit === "m" ? [0.05, 3, 0.05] : unit === "x" ? [0.5, 3, 0.05] : [1, 60, 1];
      slider.value = single.amount;
    }
    byId("amountSaid").textContent = single ? `${single.amount}${unit === "deg" ? "°" : unit === "x" ? "×" : " m"}` : "";
    if (single) byId("speed").value = byId("path").value.match(/\b(ease_in|ease_out|ease)\b/)?.[1] ?? "linear";
    for (const button of byId("presets").children)
      button.setAttribute("aria-pressed", String(single?.name === button.dataset.preset));
    const key = this.keys[this.selected];
    byId("keyPanel").hidden = !key;
    if (!key) return;
    byId("keyPanel").firstElementChild.textContent = `Key ${this.selected + 1}`;
    byId("zoom").value = Math.round(100 * Math.log(key.zoom) / Math.log(4));
    byId("zoomSaid").textContent = `${key.zoom.toFixed(2)}×`;
  }

  #key(change) {
    const key = this.keys[this.selected];
    if (!key) return;
    change(key);
    this.moved(true);
  }

  moved(done) {  // null: a keyframe was only chosen
    if (done !== null) this.edited = true;
    this.#shown();
    if (done !== null) this.changed(done);
  }

  #resampled(count) {
    this.count = count;
    this.selected = -1;
    this.changed(true);
  }

  heard(keys) {  // what the server made of the path
    if (this.edited && keys.length === this.keys.length) return;
    this.keys = keys;
    if (this.selected >= keys.length) this.selected = -1;
    byId("count").value = keys.length;
    this.#shown();
  }

  error(problem) {  // said with its place in the text
    const line = byId("wrong"), text = byId("path").value;
    line.replaceChildren();
    line.hidden = !problem;
    if (!problem) return;
    if (problem.span && !this.edited) {
      const mark = document.createElement("mark");
      mark.textContent = text.slice(...problem.span);
      line.append(text.slice(0, problem.span[0]).slice(-24), mark, text.slice(problem.span[1]).slice(0, 24), document.createElement("br"));
    }
    line.append(problem.message.replace(/(did you mean [^?]*\?) Known: .*/, "$1"));
  }

  wish() {
    const common = { fov: +byId("fov").value, distance: distance(), measured: byId("measured").checked };
    if (common.measured || common.fov === 50) common.fov = null;
    const keys = { speed: byId("speed").value, keys: this.keys.map(({ c2w, zoom }) => ({ c2w, zoom })) };
    const own = this.edited ? keys : { text: byId("path").value };
    const count = this.edited ? this.count : +byId("count").value;
    this.count = null;
    return { path: { ...own, ...common }, ...(count ? { count } : {}) };
  }
}

export const distance = () => +(4 * 10 ** (byId("distance").value / 100)).toPrecision(3);
