// Rigid transforms as rows of 4x4 numbers, in OpenCV's axes: x right, y down, z forward.

export const subtract = (a, b) => a.map((x, i) => x - b[i]);
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const unit = a => { const n = Math.hypot(...a) || 1; return a.map(x => x / n); };
export const place = (m, p) => [0, 1, 2].map(i => m[4 * i] * p[0] + m[4 * i + 1] * p[1] + m[4 * i + 2] * p[2] + m[4 * i + 3]);
export const centre = m => [m[3], m[7], m[11]];

export function multiply(a, b) {
  const out = new Array(16).fill(0);
  for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++) for (let k = 0; k < 4; k++)
    out[4 * i + j] += a[4 * i + k] * b[4 * k + j];
  return out;
}

export function inverted(c2w) {  // of a rigid transform
  const r = [0, 1, 2].map(i => [0, 1, 2].map(j => c2w[4 * j + i])), t = centre(c2w);
  return [...r.flatMap(row => [...row, -(row[0] * t[0] + row[1] * t[1] + row[2] * t[2])]), 0, 0, 0, 1];
}

export function lens(edges, near, far) {  // to clip space; edges: left, right, up, down at depth 1
  const [l, r, u, d] = edges;
  return [2 / (r - l), 0, -(r + l) / (r - l), 0, 0, -2 / (d - u), (d + u) / (d - u), 0,
          0, 0, (far + near) / (far - near), -2 * far * near / (far - near), 0, 0, 1, 0];
}

export function lookAt(eye, target, down = [0, 1, 0]) {
  const z = unit(subtract(target, eye)), x = unit(cross(down, z)), y = cross(z, x);
  return [x[0], y[0], z[0], eye[0], x[1], y[1], z[1], eye[1], x[2], y[2], z[2], eye[2], 0, 0, 0, 1];
}

export function turned(c2w, right, up) {  // about its own axes, degrees
  const [a, b] = [right, up].map(x => x * Math.PI / 180);
  const yaw = [Math.cos(a), 0, Math.sin(a), 0, 0, 1, 0, 0, -Math.sin(a), 0, Math.cos(a), 0, 0, 0, 0, 1];
  const pitch = [1, 0, 0, 0, 0, Math.cos(b), -Math.sin(b), 0, 0, Math.sin(b), Math.cos(b), 0, 0, 0, 0, 1];
  return multiply(c2w, multiply(yaw, pitch));
}
