// What lies over the 3D view: both cameras, the path, keyframes to drag; and turning the view.
import { centre, lookAt, place } from "./geometry.js";

const REACH = 18, SOURCE = "#aab1bd", TARGET = "#f28a2e", SIZE = 0.13;

export class Marks {
  // path: { keys, editable, selected, lookAt }; changed(done): after keys were moved
  constructor(canvas, scene, path, redraw, changed) {
    Object.assign(this, { canvas, scene, path, redraw, changed, pointers: new Map() });
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
    if (this.scene.look !== "outside") return;
    this.key = -1;
    let nearest = REACH;
    this.path.keys.forEach((key, i) => {
      const p = this.scene.project(centre(key.c2w)), far = p ? Math.hypot(p[0] - x, p[1] - y) : Infinity;
      if (far < nearest) { nearest = far; this.key = i; }
    });
    if (this.key >= 0) { this.path.selected = this.key; this.changed(null); }
  }

  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.#at(event), [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      this.#near(Math.log(Math.hypot(before[0] - other[0], before[1] - other[1]) / Math.max(1, Math.hypot(now[0] - other[0], now[1] - other[1]))));
    } else if (this.key >= 0) this.#drag(dx, dy);
    else if (this.scene.look !== "outside") this.leave?.();
    else this.#turn(dx / this.canvas.clientHeight, dy / this.canvas.clientHeight, event.buttons & 2 || event.shiftKey);
    this.pointers.set(event.pointerId, now);
    this.redraw();
  }

  #up(event) {
    this.pointers.delete(event.pointerId);
    if (this.key >= 0 && this.dragged) this.changed(true);
    this.key = -1;
    this.dragged = false;
  }

  #drag(dx, dy) {
    const key = this.path.keys[this.key], at = this.scene.moved(centre(key.c2w), dx, dy), c2w = [...key.c2w];
    [c2w[3], c2w[7], c2w[11]] = at;
    const first = this.scene.cameras.source[0].c2w;
    key.c2w = this.path.lookAt ? lookAt(at, this.scene.subject, [first[1], first[5], first[9]]) : c2w;
    this.dragged = true;
    this.changed(false);
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
    if (!this.scene.main || this.scene.look !== "outside") return;
    const { cameras } = this.scene, now = this.scene.at(number);
    this.#line(pen, cameras.source.map(one => centre(one.c2w)), SOURCE, 1.5);
    this.#line(pen, cameras.target.map(one => centre(one.c2w)), TARGET, 2);
    this.#frustum(pen, now.source, SOURCE);
    this.#frustum(pen, now.target, TARGET);
    pen.font = "600 11px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    this.path.keys.forEach((key, i) => {
      const p = this.scene.project(centre(key.c2w));
      if (!p) return;
      const chosen = i === this.path.selected;
      pen.beginPath();
      pen.arc(p[0], p[1], chosen ? 10 : 8, 0, 7);
      pen.fillStyle = chosen ? "#fff" : TARGET;
      pen.fill();
      pen.strokeStyle = "#16181d";
      pen.lineWidth = 1.5;
      pen.stroke();
      pen.fillStyle = "#1a0f04";
      pen.fillText(i + 1, p[0], p[1] + 0.5);
    });
    const [x, y, w, h] = this.scene.inset.box;
    pen.strokeStyle = TARGET;
    pen.lineWidth = 1.5;
    pen.strokeRect(x - 0.5, y - 0.5, w + 1, h + 1);
    pen.textAlign = "left";
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
