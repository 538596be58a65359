// What lies over the 3D view: both cameras, the path, keyframes to drag; and turning the view.
import { centre, lookAt, place } from "./geometry.js";

const NUDGE = 12, SOURCE = "#aab1bd", TARGET = "#f28a2e", SIZE = 0.13;

export class Marks {
  // path: { keys, editable, selected, lookAt }; changed(done): after keys were moved
  constructor(canvas, scene, path, redraw, changed) {
    Object.assign(this, { canvas, scene, path, redraw, changed, pointers: new Map(), handles: [] });
    this.layer = canvas.nextElementSibling;
    canvas.onpointerdown = event => this.#down(event);
    canvas.onpointermove = event => this.#move(event);
    canvas.onpointerup = canvas.onpointercancel = event => this.#up(event);
    canvas.oncontextmenu = event => event.preventDefault();
    canvas.addEventListener("wheel", event => { event.preventDefault(); this.#near(event.deltaY / 700); }, { passive: false });
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #down(event) {
    if (!this.scene.main) return;
    const [x, y] = this.#at(event), inset = this.scene.inset?.box;
    if (inset && x > inset[0] && x < inset[0] + inset[2] && y > inset[1] && y < inset[1] + inset[3]) return this.enter?.();
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [x, y]);
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.#at(event), [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      this.#near(Math.log(Math.hypot(before[0] - other[0], before[1] - other[1]) / Math.max(1, Math.hypot(now[0] - other[0], now[1] - other[1]))));
    } else if (this.scene.look !== "outside") this.leave?.();
    else this.#turn(dx / this.canvas.clientHeight, dy / this.canvas.clientHeight, event.buttons & 2 || event.shiftKey);
    this.pointers.set(event.pointerId, now);
    this.redraw();
  }

  #up(event) { this.pointers.delete(event.pointerId); }

  #handle(index) {  // a keyframe: dragged, or moved by arrow keys
    const made = document.createElement("button");
    let at = null, dragged = false;
    made.textContent = index + 1;
    made.setAttribute("aria-label", `keyframe ${index + 1}: drag it, or move it by arrow keys`);
    made.onfocus = () => { this.path.selected = index; this.changed(null); this.redraw(); };
    made.onpointerdown = event => { made.setPointerCapture(event.pointerId); made.focus(); at = this.#at(event); dragged = false; event.preventDefault(); };
    made.onpointermove = event => {
      if (!at) return;
      const now = this.#at(event);
      this.#drag(index, now[0] - at[0], now[1] - at[1], false);
      at = now;
      dragged = true;
    };
    made.onpointerup = made.onpointercancel = () => { if (at && dragged) this.changed(true); at = null; };
    made.onkeydown = event => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) { event.preventDefault(); this.#drag(index, NUDGE * step[0], NUDGE * step[1], true); }
    };
    this.layer.append(made);
    return made;
  }

  #drag(index, dx, dy, done) {
    if (!this.scene.main) return;
    const key = this.path.keys[index], at = this.scene.moved(centre(key.c2w), dx, dy), c2w = [...key.c2w];
    [c2w[3], c2w[7], c2w[11]] = at;
    const first = this.scene.cameras.source[0].c2w;
    key.c2w = this.path.lookAt ? lookAt(at, this.scene.subject, [first[1], first[5], first[9]]) : c2w;
    this.changed(done);
  }

  #turn(dx, dy, shift) {
    const orbit = this.scene.orbit;
    if (shift) {
      const right = [Math.cos(orbit.yaw), 0, -Math.sin(orbit.yaw)];
      orbit.shift = orbit.shift.map((x, i) => x - orbit.away * (dx * right[i] + (i === 1 ? dy : 0)));
    } else {
      orbit.yaw += 3 * dx;
      orbit.pitch = Math.max(-1.5, Math.min(1.5, orbit.pitch + 3 * dy));
    }
  }

  #near(step) {
    this.scene.orbit.away = Math.max(0.1, Math.min(30, this.scene.orbit.away * Math.exp(step)));
    this.redraw();
  }

  draw(number) {
    const canvas = this.canvas, ratio = Math.min(2, window.devicePixelRatio || 1), pen = canvas.getContext("2d");
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    pen.scale(ratio, ratio);
    this.layer.hidden = !this.scene.main || this.scene.look !== "outside";
    if (this.layer.hidden) return;
    const { cameras } = this.scene, now = this.scene.at(number);
    this.#line(pen, cameras.source.map(one => centre(one.c2w)), SOURCE, 1.5);
    this.#line(pen, cameras.target.map(one => centre(one.c2w)), TARGET, 2);
    this.#frustum(pen, now.source, SOURCE);
    this.#frustum(pen, now.target, TARGET);
    while (this.handles.length < this.path.keys.length) this.handles.push(this.#handle(this.handles.length));
    this.handles.forEach((handle, i) => {
      const key = this.path.keys[i], p = key && this.scene.project(centre(key.c2w));
      handle.hidden = !p;
      if (!p) return;
      handle.style.transform = `translate(${p[0]}px, ${p[1]}px)`;
      handle.classList.toggle("chosen", i === this.path.selected);
    });
    const [x, y, w, h] = this.scene.inset.box;
    pen.strokeStyle = TARGET;
    pen.lineWidth = 1.5;
    pen.strokeRect(x - 0.5, y - 0.5, w + 1, h + 1);
    pen.font = "600 11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.fillStyle = "rgba(11, 12, 15, .7)";
    pen.fillRect(x, y, 84, 19);
    pen.fillStyle = "#e9ebee";
    pen.fillText("new camera", x + 9, y + 10);
  }

  #line(pen, points, color, width) {
    pen.beginPath();
    let before = null;
    for (const p of points.map(point => this.scene.project(point))) {
      if (p) before ? pen.lineTo(p[0], p[1]) : pen.moveTo(p[0], p[1]);
      before = p;
    }
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke();
  }

  #frustum(pen, { c2w, edges: [l, r, u, d] }, color) {
    const z = SIZE * this.scene.cameras.distance, eye = centre(c2w);
    const corners = [[l, u], [r, u], [r, d], [l, d]].map(([x, y]) => place(c2w, [x * z, y * z, z]));
    this.#line(pen, [...corners, corners[0]], color, 1.5);
    for (const corner of corners) this.#line(pen, [eye, corner], color, 1);
  }
}
