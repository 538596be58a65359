// The source's geometry over time, drawn from any camera by WebGL: surfaces torn at contours, no vertex is sent twice.
import { centre, inverted, lens, lookAt, multiply, place } from "./geometry.js";

const VERTEX = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D depth; uniform mat4 matrix, pose; uniform vec4 edges; uniform float steps, distance, far;
uniform ivec2 grid; out vec2 uv; out float torn;
float inverseDepth(ivec2 at) { return float(texelFetch(depth, clamp(at, ivec2(0), grid - 1), 0).r) / steps; }
void main() {
  ivec2 at = ivec2(gl_VertexID % grid.x, gl_VertexID / grid.x);
  float own = inverseDepth(at), least = own, most = own;
  for (int i = 0; i < 4; i++) {
    float other = inverseDepth(at + ivec2(i == 0 ? 1 : i == 1 ? -1 : 0, i == 2 ? 1 : i == 3 ? -1 : 0));
    least = min(least, other); most = max(most, other);
  }
  uv = vec2(at) / vec2(grid - 1);  // the outermost vertices lie on the picture's border
  float z = distance / max(own, 1e-4);
  torn = (least < 0.88 * most || z > far) ? 1.0 : 0.0;
  vec3 local = vec3(mix(edges.x, edges.y, uv.x) * z, mix(edges.z, edges.w, uv.y) * z, z);
  gl_Position = matrix * (pose * vec4(local, 1.0));
}`;
const FRAGMENT = `#version 300 es
precision mediump float; uniform sampler2D picture; in vec2 uv; in float torn; out vec4 color;
void main() { if (torn > 0.98) discard; color = texture(picture, uv); }`;
const INSET = 0.32;  // of the view's width, for the new camera beside the view from outside

export class Scene {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl2", { antialias: true, alpha: false });
    if (!this.gl) throw new Error("this browser has no WebGL 2, which the preview needs");
    this.program = this.#compiled();
    this.where = name => this.gl.getUniformLocation(this.program, name);
    this.frames = new Map();
    this.look = "outside";
    this.orbit = { yaw: -0.62, pitch: 0.34, away: 1.75, shift: [0, 0, 0] };  // lengths in distances of the subject
  }

  #compiled() {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    return program;
  }

  open(grid, steps) {  // another video
    const gl = this.gl, [rows, columns] = grid;
    for (const { depth, picture } of this.frames.values()) { gl.deleteTexture(depth); gl.deleteTexture(picture); }
    this.frames.clear();
    Object.assign(this, { rows, columns, steps, cameras: null });
    const index = new Uint32Array(6 * (rows - 1) * (columns - 1));
    let n = 0;
    for (let i = 0; i < rows - 1; i++) for (let j = 0; j < columns - 1; j++) {
      const a = i * columns + j;
      index.set([a, a + columns, a + 1, a + 1, a + columns, a + columns + 1], n);
      n += 6;
    }
    this.count = n;
    this.index ??= gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.index);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, index, gl.STATIC_DRAW);
  }

  async add(number, buffer) {  // a frame as the server sends it: inverse depth, then the picture
    const gl = this.gl, bytes = 2 * this.rows * this.columns, frames = this.frames, grid = [this.columns, this.rows];
    const image = await createImageBitmap(new Blob([new Uint8Array(buffer, bytes)], { type: "image/jpeg" }));
    if (grid[0] !== this.columns || grid[1] !== this.rows) return;
    const depth = this.#texture(gl.NEAREST), steps = new Uint16Array(buffer.slice(0, bytes));
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R16UI, ...grid, 0, gl.RED_INTEGER, gl.UNSIGNED_SHORT, steps);
    const picture = this.#texture(gl.LINEAR);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, image);
    frames.set(number, { depth, picture });
  }

  #texture(filter) {
    const gl = this.gl, made = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, made);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    for (const [name, value] of [[gl.TEXTURE_MIN_FILTER, filter], [gl.TEXTURE_MAG_FILTER, filter],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE]]) gl.texParameteri(gl.TEXTURE_2D, name, value);
    return made;
  }

  at(number) {  // {source, target} of a frame
    const i = this.cameras.frames.indexOf(number);
    return { source: this.cameras.source[i], target: this.cameras.target[i] };
  }

  get subject() { return place(this.cameras.source[0].c2w, [0, 0, this.cameras.distance]); }

  outside() {
    const { yaw, pitch, away, shift } = this.orbit, d = this.cameras.distance, first = this.cameras.source[0].c2w;
    const local = [0.12 * d, 0.05 * d, 0.6 * d].map((x, i) => x + shift[i] * d);
    const eye = [local[0] - away * d * Math.sin(yaw) * Math.cos(pitch), local[1] - away * d * Math.sin(pitch),
      local[2] - away * d * Math.cos(yaw) * Math.cos(pitch)];
    return { c2w: lookAt(place(first, eye), place(first, local), [first[1], first[5], first[9]]), edges: [-0.5, 0.5, -0.5, 0.5] };
  }

  draw(number) {  // the chosen look, and where it is from outside the new camera in a corner
    const gl = this.gl, canvas = this.canvas, ratio = Math.min(2, window.devicePixelRatio || 1);
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0.043, 0.047, 0.059, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.main = this.inset = null;
    if (!this.cameras || !this.frames.has(number) || !width) return;
    const views = this.at(number), inside = this.look !== "outside";
    this.main = this.#render(number, inside ? views[this.look] : this.outside(), [0, 0, width, height], inside);
    if (inside) return;
    const [l, r, u, d] = views.target.edges, margin = 12 * ratio;
    let w = INSET * width, h = w * (d - u) / (r - l);
    if (h > 0.42 * height) { h = 0.42 * height; w = h * (r - l) / (d - u); }
    const box = [width - w - margin, margin, w, h].map(Math.round);
    this.inset = { box: [box[0] / ratio, (height - box[1] - box[3]) / ratio, box[2] / ratio, box[3] / ratio] };
    this.#render(number, views.target, box, true);
  }

  #render(number, camera, [x, y, w, h], inside) {  // returns what projects points of the world to the canvas
    const gl = this.gl, distance = this.cameras.distance, { depth, picture } = this.frames.get(number);
    const projection = lens(widened(camera.edges, w / h), distance / 100, distance * 300);
    const matrix = multiply(projection, inverted(camera.c2w)), source = this.at(number).source;
    gl.viewport(x, y, w, h);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(x, y, w, h);
    gl.clearColor(...(inside ? [0.09, 0.1, 0.12] : [0.043, 0.047, 0.059]), 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(this.program);
    gl.uniformMatrix4fv(this.where("matrix"), true, matrix);
    gl.uniformMatrix4fv(this.where("pose"), true, source.c2w);
    gl.uniform4fv(this.where("edges"), source.edges);
    gl.uniform1f(this.where("steps"), this.steps);
    gl.uniform1f(this.where("distance"), distance);
    gl.uniform1f(this.where("far"), distance * (inside ? 1000 : 12));
    gl.uniform2i(this.where("grid"), this.columns, this.rows);
    gl.uniform1i(this.where("picture"), 0);
    gl.uniform1i(this.where("depth"), 1);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, depth);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, picture);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.index);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
    return { matrix, camera };
  }

  project(point) {  // to CSS pixels of the canvas and the depth, null behind the camera
    const m = this.main.matrix, w = m[12] * point[0] + m[13] * point[1] + m[14] * point[2] + m[15];
    if (w < this.cameras.distance / 100) return null;
    const [x, y] = [0, 1].map(i => (m[4 * i] * point[0] + m[4 * i + 1] * point[1] + m[4 * i + 2] * point[2] + m[4 * i + 3]) / w);
    return [(x + 1) / 2 * this.canvas.clientWidth, (1 - y) / 2 * this.canvas.clientHeight, w];
  }

  moved(point, dx, dy) {  // a point of the world, by CSS pixels across the view
    const { camera } = this.main, w = this.project(point)?.[2];
    if (!w) return point;
    const { clientWidth, clientHeight } = this.canvas, [l, r, u, d] = widened(camera.edges, clientWidth / clientHeight);
    const step = [dx / clientWidth * (r - l) * w, dy / clientHeight * (d - u) * w, 0];
    const from = centre(camera.c2w);
    return place(camera.c2w, step).map((x, i) => x - from[i] + point[i]);
  }
}

function widened(edges, aspect) {  // all of a picture, in a window of any shape
  let [l, r, u, d] = edges;
  const wide = (r - l) / (d - u);
  if (aspect > wide) { const m = (l + r) / 2, h = (d - u) * aspect / 2; l = m - h; r = m + h; }
  else { const m = (u + d) / 2, h = (r - l) / aspect / 2; u = m - h; d = m + h; }
  return [l, r, u, d];
}
