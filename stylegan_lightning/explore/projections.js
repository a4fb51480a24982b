// Pictures on their way into the model: sent, asked about twice a second, shown, given up.

const EVERY = 400;
const make = (tag, values = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...inside);
  return element;
};

export async function answer(response) {
  if (response.ok) return response;
  const text = await response.text();
  let why = text || `the server answered ${response.status}`;
  try { why = JSON.parse(text).error ?? why; } catch { /* plain text */ }
  throw new Error(why);
}

export class Projections {
  // use(point, code, name): the user wants the code as picture A or B; found(code, name, note): one is done
  constructor(list, { use, found }) {
    Object.assign(this, { list, use, found, running: new Set() });
    addEventListener("pagehide", () => this.running.forEach((id) => this.giveUp(id)));
  }

  giveUp(id) {
    return fetch(`api/projections/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
  }

  // Throws where the server refuses the file. The note comes back to `found`.
  async start(file, query, note) {
    const url = `api/projections?name=${encodeURIComponent(file.name.replace(/\.[^.]*$/, ""))}${query}`;
    const job = await (await answer(await fetch(url, { method: "POST", body: file }))).json();
    this.running.add(job.id);
    this.show(job, this.card(job), note);
  }

  card(job) {
    const parts = {
      target: make("img", { src: `api/projections/${job.id}/target.png`, alt: "your picture", width: 72, height: 72 }),
      preview: make("img", { alt: "what the model finds", width: 72, height: 72, hidden: true }),
      bar: make("progress", { max: 1, value: 0 }),
      text: make("span", { className: "text" }),
      cancel: make("button", { textContent: "Cancel" }),
      a: make("button", { textContent: "Use as A", hidden: true }),
      b: make("button", { textContent: "Use as B", hidden: true }),
    };
    parts.bar.setAttribute("aria-label", `progress of ${job.name}`);
    parts.cancel.onclick = () => this.giveUp(job.id);
    const side = make("div", {}, make("b", { textContent: job.name }), parts.bar, parts.text,
      make("div", { className: "bar" }, parts.cancel, parts.a, parts.b));
    parts.item = make("li", {}, parts.target, parts.preview, side);
    this.list.prepend(parts.item);
    return parts;
  }

  async show(job, parts, note) {
    let step = 0;
    for (;;) {
      parts.item.dataset.state = job.state;
      parts.bar.value = job.steps ? job.step / job.steps : 0;
      parts.text.textContent = describe(job);
      if (job.step > step) {
        step = job.step;
        parts.preview.src = `api/projections/${job.id}/preview.png?step=${step}`;
        parts.preview.hidden = false;
      }
      if (["done", "failed", "cancelled"].includes(job.state)) break;
      await new Promise((resolve) => setTimeout(resolve, EVERY));
      try {
        job = await (await answer(await fetch(`api/projections/${job.id}`))).json();
      } catch (error) {
        job = { ...job, state: "failed", error: error.message };
      }
    }
    this.running.delete(job.id);
    parts.bar.hidden = parts.cancel.hidden = true;
    if (job.state !== "done") return;
    parts.preview.src = `api/projections/${job.id}/preview.png?done`;
    for (const point of ["a", "b"]) {
      parts[point].hidden = false;
      parts[point].onclick = () => this.use(point, job.code, job.name);
    }
    this.found(job.code, job.name, note);
  }
}

function describe(job) {
  if (job.state === "waiting") return "waits for its turn";
  if (job.state === "running") return job.steps && job.step ? `step ${job.step} of ${job.steps}` : "starts";
  if (job.state === "done") return `found: ${job.psnr.toFixed(1)} dB` + (job.perceptual === null ? "" : `, perceptual distance ${job.perceptual.toFixed(3)}`);
  return job.state === "failed" ? job.error : "given up";
}
