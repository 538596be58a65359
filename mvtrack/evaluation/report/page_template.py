"""The HTML of the page; %NAMES% are filled in by page.py. No library, no server, no network."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%TITLE%</title>
<style>
:root { --line: #d8dbe0; --ink: #1c2530; --soft: #66707c; --back: #f6f7f9; }
* { box-sizing: border-box; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0; }
header, main { padding: 12px 20px; }
h1 { font-size: 20px; margin: 4px 0 10px; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { text-align: center; font-weight: 600; vertical-align: bottom; }
thead tr + tr th { white-space: normal; overflow-wrap: break-word; max-width: 15ch; }
tbody th { text-align: left; font-weight: 500; position: sticky; left: 0; background: #fff; }
tr.group td { text-align: left; font-style: italic; color: var(--soft); background: #fafbfc; }
small { color: var(--soft); } small.gain { color: #16803c; } small.loss { color: #c02626; }
p.note { margin: 8px 0 0; color: var(--soft); font-size: 13px; max-width: 110ch; }
table.text th, table.text td { text-align: left; vertical-align: top; }
table.why td { white-space: normal; overflow-wrap: anywhere; min-width: 9ch; }
table.why td:last-child { min-width: 40ch; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--soft); }
#bar { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 10px; align-items: center;
  padding: 8px 20px; background: #fff; border-block: 1px solid var(--line); }
#bar label { display: inline-flex; align-items: center; gap: 5px; }
#bar input[type=range] { width: 150px; } #bar input[type=search] { width: 140px; }
#bar select { max-width: 200px; }
@media (max-width: 700px) { #bar { position: static; } header, main, #bar { padding-inline: 10px; } }
button, select, input { font: inherit; padding: 3px 8px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 6px; margin: 14px 0; padding: 10px 14px; }
section h2 { font-size: 15px; margin: 0 0 8px; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(var(--width, 230px), 1fr)); gap: 12px; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; margin-bottom: 4px; }
video { width: 100%; display: block; background: #e6e8ec; border-radius: 3px; }
.none { padding: 18px 10px; background: #f3e9e9; color: #7d2b2b; border-radius: 3px; font-size: 13px; }
dl { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 10px; margin: 5px 0 0; font-size: 12.5px; }
dt { color: var(--soft); overflow-wrap: anywhere; }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
dd.why { color: #9a6a00; cursor: help; }
</style>
</head>
<body>
<header>
<h1>%TITLE%</h1>
<div class="scroll">%TABLE%</div>
<p class="note">%LEGEND%</p>
<p class="note">%SOURCE%</p>
<details><summary>Means with 95 % bootstrap intervals over cases, and how many count</summary>%INTERVALS%</details>
<details><summary>What is not in the means, and why</summary>%REASONS%</details>
<details><summary>Protocol</summary><ol>%NOTES%</ol></details>
</header>
<div id="bar">
<button id="play">Play</button>
<input id="time" type="range" min="0" max="1000" value="0" aria-label="time">
<label>speed <select id="speed"><option>0.25</option><option>0.5</option><option selected>1</option></select></label>
<label>order <select id="order"></select></label>
<label>of <select id="whose"></select></label>
<input id="filter" type="search" placeholder="find a case" aria-label="find a case">
<label>size <input id="width" type="range" min="120" max="720" value="230"></label>
<span id="count"></span>
</div>
<main id="cases"></main>
<script id="data" type="application/json">%DATA%</script>
<script>
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const make = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const shown = (value, digits) => typeof value === "number" ? value.toFixed(digits)
  : value === "inf" ? "\\u221e" : "\\u2013";
const isReason = value => typeof value === "string" && value.includes(": ");

// Of scores that a row has in no case, only failures are worth a line.
const measured = {};
for (const item of data.cases) for (const video of item.videos) for (const [key, value] of Object.entries(video.values))
  if (typeof value === "number" || value === "inf") (measured[video.who] ??= new Set()).add(key);
const isWorthALine = (video, key, value) => value !== undefined
  && (!isReason(value) || value.startsWith("failed") || measured[video.who]?.has(key));

function figureOf(video) {
  const figure = make("figure");
  figure.append(make("figcaption", video.title));
  if (video.src) {
    const player = make("video");
    player.muted = true; player.loop = true; player.playsInline = true; player.preload = "none";
    player.dataset.src = video.src;
    figure.append(player);
  } else {
    const why = Object.values(video.values).find(isReason) || "no video";
    figure.append(make("div", why, "none"));
    return figure;
  }
  const list = make("dl");
  for (const column of data.columns) {
    const value = video.values[column.key];
    if (!isWorthALine(video, column.key, value)) continue;
    list.append(make("dt", column.title.replace("[", "\\u200b[")));
    const cell = make("dd", shown(value, column.digits), isReason(value) ? "why" : "");
    if (isReason(value)) { cell.textContent = value.split(": ")[0]; cell.title = value; }
    list.append(cell);
  }
  if (list.children.length) figure.append(list);
  return figure;
}

const sections = data.cases.map(item => {
  const section = make("section");
  section.append(make("h2", item.key));
  const videos = make("div", undefined, "videos");
  item.videos.forEach(video => videos.append(figureOf(video)));
  section.append(videos);
  return { item, section };
});

// Only what is on the screen is loaded and played.
const watcher = new IntersectionObserver(entries => entries.forEach(entry => {
  for (const player of entry.target.querySelectorAll("video")) {
    if (entry.isIntersecting) {
      if (!player.src) { player.src = player.dataset.src; player.preload = "auto"; }
      player.dataset.on = "1";
    } else { delete player.dataset.on; player.pause(); }
  }
  sync();
}), { rootMargin: "200px" });
sections.forEach(({ section }) => watcher.observe(section));

let playing = false;
const active = () => [...document.querySelectorAll("video[data-on]")];
function sync() {
  const players = active();
  const lead = players.find(p => p.readyState > 1);
  for (const player of players) {
    player.playbackRate = Number(at("speed").value);
    if (lead && player !== lead && player.readyState > 0 && Math.abs(player.currentTime - lead.currentTime) > 0.08)
      player.currentTime = lead.currentTime;
    if (playing) player.play().catch(() => {}); else player.pause();
  }
}
at("play").onclick = () => {
  playing = !playing;
  at("play").textContent = playing ? "Pause" : "Play";
  sync();
};
at("time").oninput = () => {
  playing = false; at("play").textContent = "Play";
  for (const player of active()) {
    player.pause();
    if (player.duration) player.currentTime = player.duration * Math.min(0.999, at("time").value / 1000);
  }
};
setInterval(() => {
  const lead = active().find(p => p.readyState > 1);
  if (playing && lead) { at("time").value = 1000 * lead.currentTime / lead.duration; sync(); }
}, 250);
at("speed").onchange = sync;
at("width").oninput = () => document.body.style.setProperty("--width", at("width").value + "px");

const orders = [["", "as listed"]];
const isScored = c => c.better !== "none"
  && data.cases.some(x => x.videos.some(v => typeof v.values[c.key] === "number"));
for (const c of data.columns.filter(isScored)) orders.push([c.key, c.title + ", worst first"]);
const option = (select, value, text) => { const o = make("option", text); o.value = value; select.append(o); };
orders.forEach(([key, text]) => option(at("order"), key, text));
data.methods.forEach(m => option(at("whose"), m.name, m.title));
const valueOf = (item, key) => {
  const video = item.videos.find(v => v.who === at("whose").value);
  return video && typeof video.values[key] === "number" ? video.values[key] : null;
};
function arrange() {
  const key = at("order").value, word = at("filter").value.toLowerCase();
  let list = sections.filter(({ item }) => item.key.toLowerCase().includes(word));
  if (key) {
    const sign = data.columns.find(c => c.key === key).better === "higher" ? 1 : -1;
    const rank = s => { const v = valueOf(s.item, key); return v === null ? Infinity : sign * v; };
    list = [...list].sort((a, b) => rank(a) - rank(b));
  }
  at("cases").replaceChildren(...list.map(s => s.section));
  at("count").textContent = list.length + " of " + sections.length + " cases";
}
for (const id of ["order", "whose"]) at(id).onchange = arrange;
at("filter").oninput = arrange;
arrange();
</script>
</body>
</html>
"""
