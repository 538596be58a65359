// The page: one video at a time, its geometry and path in 3D, the render panel, and what became of it.
import { ask, latest, post, remove, upload } from "./api.js";
import { Jobs, showResult } from "./jobs.js";
import { Marks } from "./marks.js";
import { PathPanel, distance } from "./path.js";
import { Player } from "./player.js";
import { Scene } from "./scene.js";

const byId = name => document.getElementById(name);
const PARALLEL = 4;  // frames that are fetched at a time
let state = null, video = null, playing = true, number = 0, shot = null, loading = 0, polling = 0;
const path = new PathPanel(done => { redraw(); askPreview(done); });
const player = new Player();
const scene = new Scene(byId("view"));
const marks = new Marks(byId("marks"), scene, path, () => redraw(), done => path.moved(done));
const jobs = new Jobs({ show, changed: refresh, trouble });
marks.enter = () => look("target");
marks.leave = () => look("outside");

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text ?? "";
}
async function tried(work) {
  trouble(null);
  try { return await work(); } catch (error) { trouble(error.message); }
}
function busy(text, share) {
  byId("busy").hidden = !text;
  byId("busy").firstElementChild.textContent = text ?? "";
  const bar = byId("busy").lastElementChild;
  share === undefined ? bar.removeAttribute("value") : bar.value = share;
}

async function refresh() {
  clearTimeout(polling);
  const mine = await ask("/api/state").catch(error => { trouble(error.message); return null; });
  if (mine) {
    state = mine;
    path.offer(state.presets, state.speeds);
    if (!byId("model").length) for (const { name } of state.models) byId("model").add(new Option(name, name));
    captions();
    welcome();
    jobs.draw(state.jobs);
    if (video) open(video.id);
  }
  const active = mine && (state.jobs.some(job => ["waiting", "running"].includes(job.state)) || video?.state === "measuring" || video?.cameras === "measuring");
  clearTimeout(polling);
  polling = setTimeout(refresh, active ? 700 : mine ? 4000 : 2000);
}

function captions() {  // of models that take them
  const takes = state.models.find(one => one.name === byId("model").value)?.captions;
  byId("caption").parentElement.hidden = !takes;
  if (!takes) byId("caption").value = "";
}

function welcome() {
  const list = byId("videos");
  list.hidden = byId("new").hidden = byId("remove").hidden = !state.uploads.length;
  const shown = state.uploads.map(one => `${one.id} ${one.name}`).join("\n");
  if (list.dataset.shown !== shown) {
    list.dataset.shown = shown;
    list.replaceChildren(new Option("choose a video", ""), ...state.uploads.map(one => new Option(one.name, one.id)));
  }
  list.value = video?.id ?? "";
  byId("remove").hidden = !video;
  byId("most").textContent = `up to ${state.max_upload_mb} MB; it stays on the machine that runs this page`;
  if (byId("examples").childElementCount) return;
  byId("examples").append("or an example:");
  for (const name of state.examples) {
    const one = document.createElement("button");
    one.textContent = name.replace("_", " ");
    one.onclick = () => tried(async () => {
      busy("rendering the example (once)");
      try { await chosen(await post(`/api/examples/${name}`)); } finally { busy(null); }
    });
    byId("examples").append(one);
  }
}

async function chosen(made) {
  state.uploads.unshift(made);
  open(made.id);
  await refresh();
}
const bring = file => tried(async () => {
  try { await chosen(await upload(file, share => busy(`uploading ${file.name}`, share))); } finally { busy(null); }
});

function open(id) {  // a video, or what became of the one that is open
  const known = state.uploads.find(one => one.id === id) ?? null, other = known?.id !== video?.id;
  video = known;
  document.querySelector("main").classList.toggle("empty", !video);
  byId("drop").hidden = !!video;
  if (!video) return leave();
  if (other) { backToPath(); shot = null; scene.open([2, 2], 1); number = 0; loading++; trouble(null); byId("cameraNotes").textContent = ""; byId("measured").checked = false; }
  if (video.state === "refused") { trouble(`${video.name}: ${video.reason}`); }
  const ready = !!video.frames && video.state !== "refused";
  byId("scene").hidden = !byId("player").hidden || video.state === "refused";
  byId("drop").hidden = video.state !== "refused";
  for (const card of ["pathCard", "sourceCard", "renderCard"]) byId(card).hidden = !ready;
  byId("transport").hidden = !ready;
  const all = video.shown?.length ?? 0, share = all ? (video.measured?.length ?? 0) / all : 0;
  byId("measuring").hidden = video.state !== "measuring" || share === 1;
  byId("measuring").firstElementChild.textContent = all ? `measuring geometry: ${video.measured?.length ?? 0} of ${all}` : "looking at the video";
  all ? byId("measuring").lastElementChild.value = share : byId("measuring").lastElementChild.removeAttribute("value");
  motion();
  if (!ready) return;
  if (scene.videoId !== video.id) {
    scene.open(video.grid, video.inverse_steps);
    scene.videoId = video.id;
    byId("time").max = video.frames - 1;
    askPreview(true);
  }
  fetchFrames(loading);
}
function leave() {
  document.querySelector("main").classList.add("empty");
  for (const name of ["scene", "player", "transport", "pathCard", "sourceCard", "renderCard", "result"]) byId(name).hidden = true;
  player.close();
  scene.videoId = null;
}
function motion() {
  const box = byId("measured");
  if (video.cameras === "failed" && box.checked) { box.checked = false; askPreview(true); }
  if (video.cameras === "measuring") byId("cameraNotes").textContent = "measuring the camera's motion";
  else if (video.cameras) byId("cameraNotes").textContent = (video.camera_notes ?? []).join(" ");
  if (video.cameras === "measured" && box.dataset.waits) { delete box.dataset.waits; askPreview(true); }
}

const fetching = new Set();
function fetchFrames(round) {
  const { id, measured = [] } = video;
  for (const one of measured) {
    const key = `${id}/${one}`;
    if (fetching.size >= PARALLEL) return;
    if (scene.frames.has(one) || fetching.has(key)) continue;
    fetching.add(key);
    fetch(`/api/uploads/${id}/frames/${one}`).then(answer => answer.ok ? answer.arrayBuffer() : Promise.reject())
      .then(buffer => round === loading && scene.videoId === id ? scene.add(one, buffer) : null)
      .catch(() => null)
      .finally(() => { fetching.delete(key); redraw(); if (video && round === loading) fetchFrames(round); });
  }
}

const render = () => ({ model: byId("model").value || "tiny", decoder: byId("decoder").value, resolution: byId("resolution").value,
  tracks: +byId("tracks").value, seed: Math.max(0, Math.round(+byId("seed").value || 0)), caption: byId("caption").value });
const asked = latest(async () => {
  if (!video?.frames || video.state === "refused") return;
  const { id } = video, wish = path.wish();
  if (wish.path.measured && video.cameras !== "measured") return;
  try {
    const made = await post(`/api/uploads/${id}/preview`, { ...wish, render: render() });
    if (video?.id !== id) return;
    shot = scene.cameras = made;
    path.error(null);
    path.heard(made.keys);
    byId("command").textContent = made.command;
    byId("notes").replaceChildren(...[...made.warnings, ...made.notes].map(text => Object.assign(document.createElement("li"), { textContent: text })));
    byId("render").disabled = false;
  } catch (error) {
    path.error(error);
    byId("render").disabled = true;
  }
  redraw();
});
const foretold = latest(async () => {
  const { id } = video;
  try { byId("forecast").textContent = `expected: ${(await post(`/api/uploads/${id}/forecast`, { path: path.wish().path, render: render() })).forecast}`; }
  catch (error) { byId("forecast").textContent = error.message; }
});
let soon = 0;
function askPreview(done) {
  if (!video?.frames) return;
  asked();
  clearTimeout(soon);
  if (done) soon = setTimeout(() => video?.frames && foretold(), 900);
}

function backToPath() {
  byId("player").hidden = byId("result").hidden = byId("back").hidden = byId("tracksOn").hidden = true;
  byId("scene").hidden = !video;
  player.close();
}
async function show(job) {
  const of = state.uploads.find(one => one.id === job.upload);
  if (of && of.id !== video?.id) open(of.id);
  showResult(job, refresh, trouble);
  byId("result").hidden = byId("back").hidden = false;
  if (!of) return trouble("the source was removed: the result can be downloaded");
  byId("player").hidden = false;
  byId("scene").hidden = true;
  byId("stage").scrollIntoView({ block: "nearest" });
  await player.open(job, of, ask);
  player.play(playing);
}
function look(name) {
  scene.look = name;
  for (const tab of byId("looks").children) tab.setAttribute("aria-pressed", String(tab.dataset.look === name));
  byId("hint").hidden = name !== "outside";
  redraw();
}

let drawing = 0;
function redraw() {
  if (drawing) return;
  drawing = requestAnimationFrame(() => {
    drawing = 0;
    if (byId("scene").hidden) return;
    scene.draw(number);
    marks.draw(number);
    if (shot && scene.frames.size > 1) document.body.dataset.preview = "moving";
  });
}
let since = 0;
requestAnimationFrame(function tick(now) {
  requestAnimationFrame(tick);
  if (player.job) { player.tick(); said(player.frame); return; }
  if (!playing || !shot || !scene.frames.size || now - since < 1000 / video.fps) return;
  const steps = Math.max(1, Math.floor((now - since) * video.fps / 1000)), known = [...scene.frames.keys()].sort((a, b) => a - b);
  since = now;
  tick.at = ((tick.at ?? 0) + steps) % video.frames;
  const nearest = known.filter(one => one <= tick.at).pop() ?? known[0];
  if (nearest !== number) { number = nearest; redraw(); }
  said(tick.at);
});
function said(frame) {
  if (document.activeElement !== byId("time") || playing) byId("time").value = frame;
  byId("number").textContent = `${frame} / ${video.frames - 1}`;
}
function run(on) {
  playing = on;
  byId("play").textContent = on ? "Pause" : "Play";
  if (player.job) player.play(on);
}

byId("choose").onclick = () => byId("file").click();
byId("file").onchange = () => { if (byId("file").files[0]) bring(byId("file").files[0]); byId("file").value = ""; };
byId("new").onclick = () => { video = null; welcome(); byId("drop").hidden = false; leave(); trouble(null); };
byId("videos").onchange = () => byId("videos").value && open(byId("videos").value);
byId("remove").onclick = () => tried(async () => { await remove(`/api/uploads/${video.id}`); byId("new").onclick(); await refresh(); });
byId("play").onclick = () => run(!playing);
byId("time").oninput = () => {
  run(false);
  const at = +byId("time").value, known = [...scene.frames.keys()].sort((a, b) => a - b);
  if (player.job) player.seek(at);
  else { number = known.filter(one => one <= at).pop() ?? 0; redraw(); }
  said(at);
};
byId("back").onclick = () => { backToPath(); redraw(); };
for (const tab of byId("looks").children) tab.onclick = () => look(tab.dataset.look);
for (const name of ["fov", "distance"]) byId(name).oninput = () => { lenses(); askPreview(true); };
function lenses() {
  byId("fovSaid").textContent = byId("measured").checked ? "measured" : `${byId("fov").value}°`;
  byId("fov").disabled = byId("measured").checked;
  byId("distanceSaid").textContent = `${distance()} m`;
}
byId("measured").onchange = () => tried(async () => {
  lenses();
  if (byId("measured").checked && video.cameras !== "measured") {
    byId("measured").dataset.waits = "1";
    await post(`/api/uploads/${video.id}/cameras`);
    await refresh();
  } else askPreview(true);
});
for (const name of ["model", "decoder", "resolution", "tracks", "seed", "caption"]) byId(name).onchange = () => { captions(); askPreview(true); };
byId("render").onclick = () => tried(async () => {
  byId("render").disabled = true;
  try { await post(`/api/uploads/${video.id}/render`, { path: path.wish().path, render: render() }); } finally { byId("render").disabled = false; }
  await refresh();
});
for (const button of document.querySelectorAll("[data-copy]")) button.onclick = async () => {
  await navigator.clipboard.writeText(byId(button.dataset.copy).textContent).then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Select it"; });
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
};
window.ondragover = event => { event.preventDefault(); byId("drop").classList.add("over"); };
window.ondragleave = () => byId("drop").classList.remove("over");
window.ondrop = event => { event.preventDefault(); byId("drop").classList.remove("over"); if (event.dataTransfer.files[0]) bring(event.dataTransfer.files[0]); };
window.onresize = () => { player.job ? player.resize() : redraw(); };
lenses();
refresh();
