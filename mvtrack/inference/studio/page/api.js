// Requests to the server; what it refuses is an Error with its words, and `span` where a part of a path is meant.

export async function ask(path, options = {}) {
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("the server does not answer"); }
  if (answer.status === 401) { location.href = "/login"; throw new Error("log in first"); }
  const body = answer.status === 204 ? null : await answer.json().catch(() => ({ error: `error ${answer.status}` }));
  if (!answer.ok || body?.error) throw Object.assign(new Error(body.error), { span: body.span });
  return body;
}

export const post = (path, value = {}) => ask(path, { method: "POST", body: JSON.stringify(value) });
export const remove = path => ask(path, { method: "DELETE" });

export function upload(file, progress) {  // fetch does not tell how much has been sent
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/uploads?name=${encodeURIComponent(file.name)}`);
    request.upload.onprogress = event => progress(event.loaded / Math.max(1, event.total));
    request.onload = () => {
      let body = {};
      try { body = JSON.parse(request.responseText); } catch { body = { error: `error ${request.status}` }; }
      request.status < 300 ? resolve(body) : reject(new Error(body.error));
    };
    request.onerror = () => reject(new Error(`${file.name} was not taken: it is too large, or the server is gone`));
    request.send(file);
  });
}

export function latest(work) {  // calls `work` with the newest value only, one call at a time
  let busy = false, next = null;
  return async function run(value) {
    next = { value };
    if (busy) return;
    busy = true;
    while (next) {
      const { value: now } = next;
      next = null;
      await work(now);
    }
    busy = false;
  };
}
