// The queue and the history. Whatever users typed is put there as text, never as markup.
import { post, remove } from "./api.js";

const byId = name => document.getElementById(name);

function make(kind, text = "", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function button(text, work, trouble) {
  const made = make("button", text, "quiet");
  made.onclick = async () => {
    made.disabled = true;
    try { await work(); } catch (error) { trouble(error.message); }
    made.disabled = false;
  };
  return made;
}

const seconds = value => value < 90 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;

function said(job) {
  if (job.state === "waiting") return job.ahead ? `waiting, ${job.ahead} before it` : "waiting";
  if (job.state === "running") return `${Math.round(100 * (job.progress ?? 0))} % ${job.doing ?? ""}`;
  if (job.state === "done") return `done in ${seconds(job.finished - (job.started ?? job.finished))}`;
  return job.state === "failed" ? job.reason : job.state;
}

export class Jobs {
  constructor({ show, changed, trouble }) { Object.assign(this, { show, changed, trouble, drawn: "" }); }

  draw(jobs) {
    byId("jobsCard").hidden = !jobs.length;
    const text = JSON.stringify(jobs);
    if (text === this.drawn) return;
    this.drawn = text;
    byId("jobs").replaceChildren(...jobs.map(job => this.#row(job)));
  }

  #row(job) {
    const row = make("li"), top = make("div", "", "top"), active = job.state === "waiting" || job.state === "running";
    row.dataset.state = job.state;
    top.append(make("b", job.label));
    const act = (text, work) => top.append(button(text, async () => { await work(); await this.changed(); }, this.trouble));
    if (active) act("Cancel", () => post(`/api/jobs/${job.id}/cancel`));
    if (job.state === "done" && job.kind === "reshoot") act("Show", () => this.show(job));
    if (job.state === "done" && job.kind === "export4d") top.append(link(job, "result.html", "Download"));
    if (!active) act("Remove", () => remove(`/api/jobs/${job.id}`));
    row.append(top, make("p", `${job.name} · ${said(job)}`, `said ${["done", "failed"].includes(job.state) ? job.state : "faint"}`));
    if (job.state === "running") {
      const bar = make("progress");
      if (job.progress) bar.value = job.progress;
      row.append(bar);
    }
    return row;
  }
}

function link(job, name, text) {
  const made = make("a", text);
  made.href = name === "all.zip" ? `/api/jobs/${job.id}/all.zip` : `/api/jobs/${job.id}/files/${encodeURIComponent(name)}?download`;
  made.download = name;
  return made;
}

export function showResult(job, changed, trouble) {
  byId("resultName").textContent = `${job.name}: ${job.label}`;
  byId("resultCommand").textContent = job.command;
  const files = Object.keys(job.files).map(name => link(job, name, name));
  byId("downloads").replaceChildren(
    Object.assign(link(job, "all.zip", "Download everything"), { className: "button" }),
    Object.assign(button("Make a 3D page", async () => { await post(`/api/jobs/${job.id}/export4d`); await changed(); }, trouble), { className: "" }),
    ...files,
  );
}

