// One state, drawn as soon as the picture before it has arrived; whatever the controls say in between is skipped.

import { Projections, answer } from "./projections.js";
import { setUpSaving } from "./saving.js";
import { pointText, read, write } from "./state.js";

const byId = (id) => document.getElementById(id);
const make = (tag, values = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...inside);
  return element;
};
const MOST_HISTORY = 60;
const LARGEST_SEED = 2 ** 32 - 1;
const THUMBNAIL = 96;
const STRIP = 7;

let model, state, shown = null, wanted = null, drawing = false;
const past = [];
let now = -1;
const names = new Map(JSON.parse(sessionStorage.getItem("names") ?? "[]"));

// ------------------------------------------------------------------------------------------------ drawing

async function draw() {
  wanted = write(state);
  history.replaceState(null, "", `#${wanted}`);
  if (drawing) return;
  drawing = true;
  while (wanted !== shown) {
    const text = wanted;
    const slow = setTimeout(() => byId("picture").setAttribute("aria-busy", "true"), 400);
    try {
      const start = performance.now();
      const blob = await (await answer(await fetch(`api/image?${text}`))).blob();
      await show(blob);
      keepThumbnail(text);
      say(`${Math.round(performance.now() - start)} ms`);
    } catch (error) {
      say(error instanceof TypeError ? "the server does not answer: is it still running?" : error.message, true);
    }
    clearTimeout(slow);
    byId("picture").removeAttribute("aria-busy");
    shown = text;
    byId("picture").dataset.state = text;
  }
  drawing = false;
  drawStripSoon();
}

async function show(blob) {
  const picture = byId("picture"), before = picture.src;
  picture.src = URL.createObjectURL(blob);
  await picture.decode();
  picture.alt = `the picture of ${describe(state.a)}`;
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
}

function say(text, bad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", bad);
}

function describe(point) {
  if (point.code) return names.get(point.code) ?? `code ${point.code.slice(0, 6)}`;
  return `seed ${point.seed}` + (point.label === undefined ? "" : `, class ${point.label}`);
}

let stripTimer, stripShown = null;
function drawStripSoon() {
  clearTimeout(stripTimer);
  byId("strip").hidden = !state.b;
  if (state.b) stripTimer = setTimeout(drawStrip, 250);
}

async function drawStrip() {
  const of = (t) => write({ ...state, mix: state.mix.map(() => t) });
  const key = of(0.5);
  if (key === stripShown) return;
  stripShown = key;
  for (const [i, cell] of [...byId("strip").children].entries()) {
    const t = i / (STRIP - 1);
    const response = await fetch(`api/image?${of(t)}&size=${THUMBNAIL}`).catch(() => null);
    if (stripShown !== key || !response?.ok) return;
    const url = URL.createObjectURL(await response.blob());
    const image = cell.firstChild;
    image.onload = () => URL.revokeObjectURL(url);
    image.src = url;
  }
}

// ------------------------------------------------------------------------------------------------ history

function commit() {
  const text = write(state);
  if (past[now]?.text !== text) {
    past.splice(now + 1);
    past.push({ text, thumbnail: null });
    if (past.length > MOST_HISTORY) past.shift();
    now = past.length - 1;
  }
  if (shown === text) keepThumbnail(text);
  showHistory();
}

function keepThumbnail(text) {
  const entry = past[now];
  const picture = byId("picture");
  if (!entry || entry.thumbnail || entry.text !== text || !picture.naturalWidth) return;
  const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
  canvas.getContext("2d").drawImage(picture, 0, 0, 64, 64);
  entry.thumbnail = canvas.toDataURL("image/jpeg", 0.8);
  showHistory();
}

function go(index) {
  if (index < 0 || index >= past.length || index === now) return;
  now = index;
  restore(past[now].text);
}

function restore(text) {
  state = read(text, model);
  showControls();
  showHistory();
  draw();
}

function showHistory() {
  byId("undo").disabled = now <= 0;
  byId("redo").disabled = now >= past.length - 1;
  const list = byId("history");
  while (list.children.length < past.length) list.append(make("button", {}, make("img", { alt: "", width: 48, height: 48 })));
  while (list.children.length > past.length) list.lastChild.remove();
  past.forEach((entry, i) => {
    const button = list.children[i], image = button.firstChild;
    button.onclick = () => go(i);
    button.title = entry.text;
    button.setAttribute("aria-label", `step ${i + 1} of the history`);
    button.setAttribute("aria-current", String(i === now));
    if (!entry.thumbnail && i !== now) entry.thumbnail = `api/image?${entry.text}&size=64`; // it was passed by too quickly
    image.hidden = !entry.thumbnail;
    if (entry.thumbnail && image.getAttribute("src") !== entry.thumbnail) image.src = entry.thumbnail;
  });
  const current = list.children[now];
  if (current) list.scrollTo({ left: current.offsetLeft - list.clientWidth / 2 });
}

// ----------------------------------------------------------------------------------------------- controls

// change(): the state has changed; live: a slider is still on its way
function change(live = false) {
  showControls();
  if (!live) commit();
  draw();
}

function slider(input, { get, set, start, text = (x) => x.toFixed(2) }) {
  const output = input.parentElement.querySelector("output");
  input.oninput = () => { set(Number(input.value)); change(true); };
  input.onchange = () => { set(Number(input.value)); change(); };
  input.ondblclick = () => { set(start); change(); };
  return () => {
    const value = get();
    if (value < Number(input.min)) input.min = value;
    if (value > Number(input.max)) input.max = value;
    if (document.activeElement !== input || Number(input.value) !== value) input.value = value;
    output.textContent = text(value);
    input.setAttribute("aria-valuetext", text(value));
  };
}

const updates = [];
const showControls = () => updates.forEach((update) => update());
const randomSeed = () => Math.floor(Math.random() * 1_000_000);
const newPoint = (seed, like) => (model.classes ? { seed, label: like?.label ?? 0 } : { seed });

function randomise(key) {
  state[key] = newPoint(randomSeed(), state[key]);
  if (key === "b" && !state.mix.some((t) => t)) state.mix = state.mix.map(() => 0.5);
  change();
}

function step(by) {
  const seed = state.a.code ? 0 : state.a.seed + by;
  state.a = newPoint(Math.min(LARGEST_SEED, Math.max(0, seed)), state.a);
  change();
}

function swap() {
  if (!state.b) return;
  [state.a, state.b] = [state.b, state.a];
  state.mix = state.mix.map((t) => Math.round((1 - t) * 100) / 100);
  change();
}

function setUpPoint(box) {
  const key = box.dataset.point, name = key.toUpperCase();
  const seed = make("input", { type: "number", min: 0, max: LARGEST_SEED, step: 1, id: `seed-${key}` });
  const random = make("button", { textContent: "Random", id: `random-${key}` });
  const label = make("select", { id: `class-${key}` });
  for (let i = 0; i < model.classes; i++) label.append(new Option(String(i), i));
  const kept = make("span", { className: "kept" });
  const bar = make("div", { className: "bar" }, make("label", {}, "seed ", seed), kept, random);
  seed.setAttribute("aria-label", `seed of picture ${name}`);
  random.setAttribute("aria-label", `random picture ${name}`);
  if (model.classes) bar.append(make("label", {}, "class ", label));
  if (key === "b") {
    const none = make("button", { textContent: "None", id: "none-b" });
    const exchange = make("button", { textContent: "Swap", id: "swap" });
    none.onclick = () => { state.b = null; change(); };
    exchange.onclick = swap;
    bar.append(exchange, none);
    updates.push(() => { none.disabled = exchange.disabled = !state.b; });
  }
  box.append(bar);
  random.onclick = () => randomise(key);
  seed.onchange = () => {
    if (seed.value === "" || !seed.checkValidity()) { showControls(); return say(`a seed is a whole number from 0 to ${LARGEST_SEED}`, true); }
    state[key] = newPoint(Number(seed.value), state[key]);
    if (key === "b" && !state.mix.some((t) => t)) state.mix = state.mix.map(() => 0.5);
    change();
  };
  label.onchange = () => {
    state[key] = { seed: state[key]?.seed ?? 0, label: Number(label.value) };
    change();
  };
  updates.push(() => {
    const point = state[key];
    seed.value = point && !point.code ? point.seed : "";
    label.value = point?.label ?? "";
    kept.textContent = point?.code ? describe(point) : "";
  });
}

function setUpMixing() {
  const all = (t) => { state.mix = state.mix.map(() => t); };
  const mean = () => state.mix.reduce((sum, t) => sum + t, 0) / state.mix.length;
  updates.push(slider(byId("mix"), { get: mean, set: all, start: 0 }));
  updates.push(() => { byId("mixing").disabled = !state.b; });
  for (const [name, layers] of Object.entries(model.groups)) {
    const button = make("button", { textContent: `${name} of B`, id: `take-${name}` });
    button.onclick = () => { state.mix = state.mix.map((_, i) => Number(layers.includes(i))); change(); };
    byId("groups").append(button);
  }
  if (model.styles === 1) return byId("layers").parentElement.remove();
  const groupOf = (i) => Object.entries(model.groups).find(([, layers]) => layers.includes(i))?.[0] ?? "";
  for (let i = 0; i < model.styles; i++) {
    const row = sliderRow(`layer-${i}`, `${i} ${groupOf(i)}`, 0, 1, 0.01);
    byId("layers").append(row);
    updates.push(slider(row.querySelector("input"), { get: () => state.mix[i], set: (t) => { state.mix[i] = t; }, start: 0 }));
  }
}

function sliderRow(id, name, min, max, step) {
  const input = make("input", { type: "range", id, min, max, step });
  return make("div", { className: "slider" }, make("label", { htmlFor: id, textContent: name, title: name }), input, make("output"));
}

function setUpTruncation() {
  updates.push(slider(byId("psi"), { get: () => state.psi, set: (x) => { state.psi = x; }, start: 1 }));
  const cutoff = byId("cutoff");
  cutoff.max = model.styles;
  const all = (x) => (x === model.styles ? "all" : `first ${x}`);
  updates.push(slider(cutoff, {
    get: () => state.cutoff ?? model.styles, set: (x) => { state.cutoff = x === model.styles ? null : x; }, start: model.styles, text: all,
  }));
  if (model.styles === 1) cutoff.parentElement.remove();
  const noise = byId("noise");
  model.noise.forEach((name) => noise.append(new Option({ const: "fixed", random: "of the seed", none: "off" }[name], name)));
  if (model.noise.length === 1) noise.parentElement.parentElement.remove();
  noise.onchange = () => { state.noise = noise.value; change(); };
  updates.push(() => { noise.value = state.noise; });
}

function setUpDirections() {
  if (!model.directions.length) return byId("directions").remove();
  model.directions.forEach((name, i) => {
    const row = sliderRow(`move-${i}`, name, -4, 4, 0.05);
    row.querySelector("input").dataset.direction = name;
    byId("moves").append(row);
    updates.push(slider(row.querySelector("input"), {
      get: () => state.moves[name] ?? 0, set: (x) => { state.moves[name] = x; }, start: 0, text: (x) => (x > 0 ? "+" : "") + x.toFixed(2),
    }));
  });
  byId("still").onclick = () => { state.moves = {}; change(); };
}

// ------------------------------------------------------------------------------------------------- files

function keepName(code, name) {
  names.set(code, name);
  sessionStorage.setItem("names", JSON.stringify([...names].slice(-200)));
}

function use(key, code, name) {
  keepName(code, name);
  state[key] = { code };
  if (key === "b" && !state.mix.some((t) => t)) state.mix = state.mix.map(() => 0.5);
  change();
}

function setUpUploads() {
  const projections = new Projections(byId("jobs"), {
    use,
    found: (code, name, before) => {
      keepName(code, name);
      if (before === write(state)) use("a", code, name); // nothing else was done in the meantime
    },
  });
  const failed = (text) => { byId("upload-error").textContent = text; byId("upload-error").hidden = !text; };
  async function take(file) {
    failed("");
    try {
      if (file.size > model.megabytes * 1e6) throw new Error(`${file.name} is larger than ${model.megabytes} MB, which is the most this page takes`);
      if (file.name.endsWith(".safetensors")) {
        const codes = await (await answer(await fetch("api/codes", { method: "POST", body: file }))).json();
        codes.forEach(({ id, name }) => keepName(id, name));
        codes.slice(0, 2).reverse().forEach(({ id, name }, i, both) => use(both.length - 1 - i ? "b" : "a", id, name));
      } else {
        await projections.start(file, model.classes ? `&class=${state.a.label ?? 0}` : "", write(state));
      }
    } catch (error) {
      failed(`${file.name}: ${error.message}`);
    }
  }
  byId("file").onchange = async ({ target }) => {
    for (const file of [...target.files]) await take(file);
    target.value = "";
  };
  addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
  addEventListener("dragleave", () => byId("drop").classList.remove("over"));
  addEventListener("drop", async (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    for (const file of [...event.dataTransfer.files]) await take(file);
  });
  addEventListener("paste", async (event) => { for (const file of [...event.clipboardData.files]) await take(file); });
}

// -------------------------------------------------------------------------------------------------- keys

function setUpKeys() {
  const keys = {
    r: () => randomise("a"), b: () => randomise("b"), x: swap, u: () => go(now - 1), U: () => go(now + 1),
    s: () => byId("png").click(), "?": () => byId("keys").showModal(),
    ArrowLeft: () => step(-1), ArrowRight: () => step(1),
  };
  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    const sliding = event.target.type === "range";
    if (byId("keys").open || event.altKey) return;
    if (event.ctrlKey || event.metaKey) {
      const redo = event.key === "y" || (event.shiftKey && event.key.toLowerCase() === "z");
      if ((!redo && event.key !== "z") || (typing && !sliding)) return;
      event.preventDefault();
      go(now + (redo ? 1 : -1));
    } else if (keys[event.key] && (!typing || (sliding && !event.key.startsWith("Arrow")))) {
      event.preventDefault();
      keys[event.key]();
    }
  });
}

// -------------------------------------------------------------------------------------------------- start

async function start() {
  try {
    model = await (await answer(await fetch("api/model"))).json();
  } catch (error) {
    return say(error.message, true);
  }
  document.title = `${model.name} – explore`;
  byId("name").textContent = model.name;
  byId("facts").textContent = [`${model.size} × ${model.size} pixels`, model.styles > 1 && `${model.styles} styles`,
    model.classes && `${model.classes} classes`].filter(Boolean).join(" · ");
  byId("frame").classList.toggle("small", model.size < 256);
  document.querySelectorAll(".point").forEach(setUpPoint);
  setUpMixing(); setUpTruncation(); setUpDirections(); setUpSaving(model, () => write(state), say); setUpUploads(); setUpKeys();
  for (let i = 0; i < STRIP; i++) {
    const cell = make("button", { title: `mix ${(i / (STRIP - 1)).toFixed(2)}` }, make("img", { alt: `mix ${i} of ${STRIP - 1}` }));
    cell.onclick = () => { state.mix = state.mix.map(() => Math.round((i / (STRIP - 1)) * 1e4) / 1e4); change(); };
    byId("strip").append(cell);
  }
  byId("undo").onclick = () => go(now - 1);
  byId("redo").onclick = () => go(now + 1);
  byId("random").onclick = () => randomise("a");
  byId("help").onclick = () => byId("keys").showModal();
  addEventListener("hashchange", () => {
    state = read(location.hash.slice(1), model);
    change();
  });
  state = read(location.hash.slice(1), model);
  showControls();
  commit();
  await draw();
}

start();
