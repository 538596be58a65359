// Source and result beside each other on one clock, with a wipe between them and the points that were followed.

const byId = name => document.getElementById(name);
const COLORS = Array.from({ length: 12 }, (_, i) => `hsl(${i * 30} 85% 62%)`);
const TAIL = 8;  // frames

export class Player {
  constructor() {
    Object.assign(this, { source: byId("sourceVideo"), result: byId("resultVideo"), job: null, tracks: null });
    byId("wipe").oninput = () => this.#wiped();
    byId("tracksOn").onchange = () => this.draw();
    for (const video of [this.source, this.result]) video.loop = true;
  }

  async open(job, upload, ask) {
    this.close();
    Object.assign(this, { job, fps: upload.fps, count: upload.frames });
    this.source.src = `/api/uploads/${upload.id}/source.mp4`;
    this.result.src = `/api/jobs/${job.id}/files/video.mp4`;
    this.box = (await ask(`/api/jobs/${job.id}`)).box ?? [0, 0, 1, 1];
    this.tracks = "tracks.npz" in job.files ? await ask(`/api/jobs/${job.id}/tracks`) : null;
    byId("tracksOn").hidden = !this.tracks;
    await Promise.all([this.source, this.result].map(video => new Promise((done, failed) => {
      video.oncanplay = done;
      video.onerror = () => failed(new Error("this browser cannot play the videos: download them"));
    })));
    if (this.job !== job) return;
    const [left, top, width, height] = this.box, place = this.source.style;
    place.width = `${100 / width}%`;
    place.height = `${100 / height}%`;
    place.left = `${-100 * left / width}%`;
    place.top = `${-100 * top / height}%`;
    this.resize();
    this.#wiped();
  }

  close() {
    this.job = null;
    for (const video of [this.source, this.result]) { video.pause(); video.oncanplay = video.onerror = null; video.removeAttribute("src"); video.load(); }
  }

  resize() {  // as large as the screen allows, in the result's shape
    const { clientWidth, clientHeight } = byId("player"), aspect = this.result.videoWidth / this.result.videoHeight || 16 / 9;
    const width = Math.min(clientWidth, clientHeight * aspect);
    byId("frame").style.width = `${Math.round(width)}px`;
    byId("frame").style.height = `${Math.round(width / aspect)}px`;
    this.draw();
  }

  #wiped() {
    byId("over").style.clipPath = `inset(0 0 0 ${byId("wipe").value / 10}%)`;
    this.draw();
  }

  get frame() { return Math.min(this.count - 1, Math.floor(this.result.currentTime * this.fps + 1e-3)); }

  play(on) {
    for (const video of [this.source, this.result]) on ? video.play().catch(() => {}) : video.pause();
    if (!on) this.seek(this.frame);
  }

  seek(frame) {
    for (const video of [this.source, this.result]) video.currentTime = (frame + 0.5) / this.fps;
  }

  tick() {  // keeps both within half a frame
    const { source, result } = this;
    if (!source.seeking && !result.seeking && Math.abs(source.currentTime - result.currentTime) > 0.6 / this.fps)
      source.currentTime = result.currentTime;
    this.draw();
  }

  draw() {
    const canvas = byId("dots"), pen = canvas.getContext("2d"), ratio = Math.min(2, window.devicePixelRatio || 1);
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const at = byId("wipe").value / 1000 * canvas.width;
    if (this.tracks && byId("tracksOn").firstElementChild.checked) {
      for (const view of [0, 1]) {
        pen.save();
        pen.beginPath();
        view === 0 ? pen.rect(0, 0, at, canvas.height) : pen.rect(at, 0, canvas.width, canvas.height);
        pen.clip();
        this.#points(pen, view, canvas, ratio);
        pen.restore();
      }
    }
    pen.fillStyle = "#fff";
    pen.fillRect(at - ratio / 2, 0, ratio, canvas.height);
  }

  #points(pen, view, { width, height }, ratio) {
    const now = this.frame, [left, top, w, h] = view === 0 ? this.box : [0, 0, 1, 1], { xy, visible } = this.tracks;
    const place = ([x, y]) => [(x - left) / w * width, (y - top) / h * height];
    pen.lineWidth = 1.5 * ratio;
    for (let n = 0; n < xy[view][now].length; n++) {
      if (!visible[view][now][n]) continue;
      pen.fillStyle = pen.strokeStyle = COLORS[n % COLORS.length];
      pen.beginPath();
      for (let t = Math.max(0, now - TAIL); t <= now; t++) if (visible[view][t][n]) pen.lineTo(...place(xy[view][t][n]));
      pen.stroke();
      pen.beginPath();
      pen.arc(...place(xy[view][now][n]), 3 * ratio, 0, 7);
      pen.fill();
    }
  }
}
