"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { runs, metric } = data;
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const MOST = 12;
const shown = new Set(runs.map((_, i) => i).slice(0, MOST));

// ------------------------------------------------------------------------------------------------ elements

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((c) => c != null));
  return node;
}
const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const HUES = [255, 50, 150, 5, 305, 195, 95, 335];
const DASHES = ["", "7 4", "2 4", "10 4 2 4"];
const hueOf = (i) => ({ "--hue": HUES[i % HUES.length], "data-run": i });
const dashOf = (i) => DASHES[Math.floor(i / HUES.length) % DASHES.length] || null;
const swatch = (i) =>
  svg("svg", { class: "swatch", viewBox: "0 0 26 8", "aria-hidden": "true" },
    svg("line", { x1: 0, y1: 4, x2: 26, y2: 4, "stroke-dasharray": dashOf(i) }));
const labelOf = (run) => (run.hint ? `${run.name} · ${run.hint}` : run.name);

function text(value) {
  if (value == null) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size && (size < 1e-4 || size >= 1e7)) return value.toExponential(2);
  return String(size >= 1000 ? Math.round(value * 10) / 10 : Number(value.toPrecision(4)));
}

function highlight(i) {
  for (const node of $$(".hot")) node.classList.remove("hot");
  if (i != null) for (const node of $$(`tr[data-run="${i}"], g[data-run="${i}"]`)) node.classList.add("hot");
}

const tip = $("#tip");
function showTip(x, y, title, ...lines) {
  tip.replaceChildren(el("b", {}, title), ...lines.map((line) => el("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tip.style.top = `${y - height - 12 < 4 ? y + 16 : y - height - 12}px`;
}
function hideTip() {
  tip.hidden = true;
  highlight(null);
}
function leave(event) {
  if (event.pointerType !== "touch") hideTip(); // what a finger has tapped stays until the next tap
}

// ------------------------------------------------------------------------------------------------ header

function header() {
  const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  const statuses = {};
  for (const { status } of runs) statuses[status] = (statuses[status] || 0) + 1;
  const best = runs[0];
  const facts = [
    [el("b", {}, count(runs.length, "run")), ": " + Object.entries(statuses).map(([s, n]) => `${n} ${s}`).join(", ")],
    metric
      ? ["metric ", el("b", {}, metric), ` (${data.lower ? "lower" : "higher"} is better)`]
      : ["no metric was measured"],
    ...(best.best != null ? [["best ", el("b", {}, text(best.best)), ` by ${labelOf(best)}`]] : []),
    ["made ", new Date(data.made).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })],
  ];
  $("#facts").append(...facts.map((parts) => el("li", {}, ...parts)));
  if (data.otherData.length) {
    $("#caution").textContent =
      `These runs differ in ${data.otherData.join(", ")}: values of a metric compare only where the real images ` +
      "and the way of measuring are the same.";
    $("#caution").hidden = false;
  }
}

// ------------------------------------------------------------------------------------------------ table

const COLUMNS = [
  { head: "rank", number: true, get: (run) => runs.indexOf(run) + 1 },
  { head: "run", name: true, get: (run) => run.name },
  { head: "status", get: (run) => run.status },
  { head: "best", number: true, get: (run) => run.best, strong: true },
  { head: "at kimg", number: true, get: (run) => run.bestKimg },
  { head: "last", number: true, get: (run) => run.last },
  { head: "kimg", number: true, get: (run) => run.kimg },
  { head: "img/s", number: true, get: (run) => run.speed },
  ...data.keys.map((key, k) => ({
    head: key,
    number: runs.some((run) => typeof run.values[k] === "number"),
    get: (run) => run.values[k],
  })),
];

function table() {
  const heads = COLUMNS.map((column, c) => {
    const at = column.head.lastIndexOf(".") + 1;
    return el("th", {
      scope: "col",
      class: [column.number && "number", column.name && "name"].filter(Boolean).join(" "),
      "aria-sort": c === 0 ? "ascending" : "none",
    },
      at ? el("small", {}, column.head.slice(0, at)) : null,
      el("button", { type: "button", onclick: () => sortBy(c) }, column.head.slice(at)));
  });
  const rows = runs.map((run, i) =>
    el("tr", {
      ...hueOf(i), class: "run",
      onpointerenter: () => highlight(i), onpointerleave: () => highlight(null),
    }, el("td", {}, el("input", {
      type: "checkbox", checked: shown.has(i), "aria-label": `show ${run.name}`,
      onchange: (event) => {
        event.target.checked ? shown.add(i) : shown.delete(i);
        redraw();
      },
    })), ...COLUMNS.map((column) => cell(column, run, i))));
  $("#table table").append(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "show"), ...heads)),
    el("tbody", {}, ...rows));
  const some = (label, wanted) =>
    el("button", {
      type: "button",
      onclick: () => {
        shown.clear();
        runs.forEach((_, i) => wanted(i) && shown.add(i));
        for (const row of $$("#table tbody tr")) $("input", row).checked = shown.has(Number(row.dataset.run));
        redraw();
      },
    }, label);
  $("#choose").append(
    some("all", () => true),
    ...(runs.length > 5 ? [some("best 5", (i) => i < 5)] : []),
    ...(runs.length > MOST ? [some(`best ${MOST}`, (i) => i < MOST)] : []),
    some("none", () => false));
}

function cell(column, run, i) {
  if (column.name) {
    const name = el("a", { href: `#run-${i}`, title: run.path }, run.name);
    return el("th", { scope: "row" }, el("span", { class: "named" }, swatch(i), name));
  }
  if (column.head === "status") {
    const reason = run.reason || run.notes[0] || (run.status === "unfinished" ? "stopped, or still going on" : null);
    return el("td", {},
      el("span", { class: `status ${run.status}` }, run.status),
      reason ? el("small", { title: reason }, reason) : null);
  }
  const value = text(column.get(run));
  return el("td", { class: column.number ? "number" : null }, column.strong ? el("b", {}, value) : value);
}

function sortBy(c) {
  const head = $$("#table thead th")[c + 1];
  const falling = head.getAttribute("aria-sort") === "ascending";
  for (const other of $$("#table thead th[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const valueOf = (row) => COLUMNS[c].get(runs[row.dataset.run]);
  const order = (a, b) => {
    const [x, y] = [valueOf(a), valueOf(b)];
    if (x == null || y == null) return (x == null) - (y == null); // missing values stay last
    const both = typeof x === "number" && typeof y === "number";
    return (falling ? -1 : 1) * (both ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
  };
  $("#table tbody").append(...$$("#table tbody tr").sort(order));
}

// ------------------------------------------------------------------------------------------------ curves

const MOST_TICKS = 100;

function niceTicks(low, high, count) {
  const raw = high / count - low / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((f) => f * power >= 0.75 * raw) * power;
  if (!(step > 0 && step < Infinity)) return [...new Set([low, high])].filter(Number.isFinite);
  const first = Math.ceil(low / step - 1e-9);
  const most = Math.min(Math.floor(high / step + 1e-9) - first, MOST_TICKS); // large numbers may have no next one
  const ticks = Array.from({ length: Math.max(most + 1, 0) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  return [...new Set(ticks)];
}

function logTicks(low, high) {
  const decades = Math.log10(high) - Math.log10(low);
  if (!(decades >= 0.7 && decades < Infinity)) return niceTicks(low, high, 5);
  const factors = decades > 4 ? [1] : decades > 1.6 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  const apart = Math.max(1, Math.ceil(decades / 20));
  for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p += apart) ticks.push(...factors.map((f) => f * 10 ** p));
  return ticks.filter((t) => t >= low * 0.999 && t <= high * 1.001);
}

function scale(low, high, from, to, log) {
  const f = log ? Math.log : (x) => x;
  const half = f(high) / 2 - f(low) / 2 || 0.5; // the whole may be no number
  return (x) => from + ((f(x) / 2 - f(low) / 2) / half) * (to - from);
}

let points = []; // of the curves as drawn: {run, x, y, kimg, value}

function curves() {
  const column = $("#column").value;
  const log = $("#log").checked;
  const root = $("#curves .plot");
  const width = Math.max(root.clientWidth, 260);
  const height = width < 600 ? 280 : 380;
  const lines = runs.flatMap((run, i) => {
    if (!shown.has(i) || !run.curves[column]) return [];
    const [kimg, value] = run.curves[column];
    return [{ i, pairs: kimg.map((k, p) => [k, value[p]]).filter(([, v]) => !log || v > 0) }];
  });
  const all = lines.flatMap((line) => line.pairs);
  points = [];
  $("#curves-note").textContent = [
    "Hover or tap for values; with the plot focused, arrow keys walk along a curve and between runs.",
    data.thinned ? "Long curves show the lowest and highest point of every stretch." : "",
    all.length ? "" : log ? "No positive values to show on a log scale." : "No values to show: tick runs in the table.",
  ].join(" ");
  if (!all.length) return root.replaceChildren();
  const span = (k) => all.reduce(([a, b], p) => [Math.min(a, p[k]), Math.max(b, p[k])], [Infinity, -Infinity]);
  const [x0, x1] = span(0);
  let [y0, y1] = span(1);
  const pad = y1 > y0 ? 0.05 : 0;
  if (log) [y0, y1] = [y0 * (y0 / y1) ** pad, y1 * (y1 / y0) ** pad];
  else if (pad) [y0, y1] = [y0 - (y1 - y0) * pad, y1 + (y1 - y0) * pad];
  else [y0, y1] = [y0 - (Math.abs(y0) || 1) / 10, y1 + (Math.abs(y1) || 1) / 10];
  [y0, y1] = [Math.max(y0, log ? Number.MIN_VALUE : -Number.MAX_VALUE), Math.min(y1, Number.MAX_VALUE)];
  const ticks = log ? logTicks(y0, y1) : niceTicks(y0, y1, 6);
  const left = 14 + 7.2 * Math.max(...ticks.map((t) => text(t).length));
  const x = scale(x0, x1, left, width - 14, false);
  const y = scale(y0, y1, height - 40, 12, log);
  const plot = svg("svg", {
    viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img",
    "aria-label": `${column} over kimg of ${lines.map((l) => runs[l.i].name).join(", ")}`,
    onpointermove: (event) => pick(event), onpointerdown: (event) => pick(event),
    onpointerleave: leave, onkeydown: walk, onblur: hideTip,
  });
  for (const t of ticks)
    plot.append(svg("line", { class: "grid", x1: left, x2: width - 14, y1: y(t), y2: y(t) }),
      svg("text", { x: left - 7, y: y(t) + 4, "text-anchor": "end" }, text(t)));
  for (const t of niceTicks(x0, x1, width / 90))
    plot.append(svg("text", { x: x(t), y: height - 20, "text-anchor": "middle" }, text(t)));
  plot.append(svg("text", { x: width - 14, y: height - 3, "text-anchor": "end" }, "kimg"));
  for (const { i, pairs } of [...lines].reverse()) { // the best on top
    const drawn = pairs.map(([kimg, value]) => ({ run: i, x: x(kimg), y: y(value), kimg, value }));
    points.unshift(...drawn);
    const path = drawn.map((p) => `${p.x.toFixed(1)},${p.y.toFixed(1)}`).join(" ");
    plot.append(svg("g", { ...hueOf(i), class: "run" },
      svg("polyline", { class: "line", points: path, "stroke-dasharray": dashOf(i) }),
      ...(drawn.length < 40 ? drawn.map((p) => svg("circle", { class: "dot", cx: p.x, cy: p.y, r: 3 })) : [])));
  }
  plot.append(svg("circle", { class: "mark", r: 6, hidden: true }));
  root.replaceChildren(plot);
}

function pick(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const [px, py] = [event.clientX - box.left, event.clientY - box.top];
  const distance = (p) => (p.x - px) ** 2 + (p.y - py) ** 2;
  mark(points.reduce((near, p) => (distance(p) < distance(near) ? p : near)));
}

let marked = null;
function mark(point) {
  marked = point;
  const plot = $("#curves svg");
  const circle = $(".mark", plot);
  const run = runs[point.run];
  const box = plot.getBoundingClientRect();
  highlight(point.run);
  build(circle, { cx: point.x, cy: point.y, class: "mark run", ...hueOf(point.run) }, []);
  circle.removeAttribute("hidden");
  showTip(box.left + point.x, box.top + point.y, labelOf(run), `${text(point.value)} at ${text(point.kimg)} kimg`);
}

function walk(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 0, ArrowDown: 0 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  const now = points.includes(marked) ? marked : points[0];
  if (step) {
    const next = points[points.indexOf(now) + step];
    return mark(next && next.run === now.run ? next : now);
  }
  const order = [...new Set(points.map((p) => p.run))];
  const run = order[(order.indexOf(now.run) + (event.key === "ArrowUp" ? order.length - 1 : 1)) % order.length];
  const near = (a, b) => (Math.abs(b.kimg - now.kimg) < Math.abs(a.kimg - now.kimg) ? b : a);
  mark(points.filter((p) => p.run === run).reduce(near));
}

function columnChoice() {
  if (!data.columns.length) return;
  const groups = new Map();
  for (const column of data.columns) {
    const group = column.split("/")[0];
    groups.set(group, [...(groups.get(group) || []), column]);
  }
  for (const [group, columns] of groups)
    $("#column").append(el("optgroup", { label: group }, ...columns.map((c) => el("option", { value: c }, c))));
  if (data.columns.includes(metric)) $("#column").value = metric;
  const values = runs.flatMap((run) => run.curves[$("#column").value]?.[1] || []);
  $("#log").checked = Math.min(...values) > 0 && Math.max(...values) > 10 * Math.min(...values);
  $("#column").addEventListener("change", curves);
  $("#log").addEventListener("change", curves);
  $("#curves").hidden = false;
}

// ------------------------------------------------------------------------------------------------ samples

function samples() {
  const moment = Number($("#moment").value);
  $("#moment-text").textContent = `about ${text(data.moments[moment])}`;
  const wide = new Set($$("figure.wide").map((figure) => figure.dataset.cell));
  const figure = (key, attributes, caption, src, alt) =>
    el("figure", { ...attributes, "data-cell": key, class: `${attributes.class || ""} ${wide.has(key) ? "wide" : ""}` },
      el("figcaption", {}, ...caption.filter((part) => part.textContent)),
      src ? el("button", { type: "button", "aria-label": `enlarge ${alt}`, onclick: enlarge }, el("img", { src, alt }))
        : el("div", { class: "nothing" }, "no samples"));
  const name = (label) => el("b", {}, label);
  const reals = data.reals.map(({ of, src }, r) => {
    const whose = of.join(", ");
    return figure(`reals-${r}`, {}, [name("real images"), el("small", { title: whose }, whose)], src, "real images");
  });
  const fakes = runs.flatMap((run, i) => {
    if (!shown.has(i)) return [];
    const sample = run.samples[run.moments[moment]];
    const value = sample?.value == null ? "" : ` · ${metric.replace("metric/", "")} ${text(sample.value)}`;
    const where = el("span", {}, sample ? `${text(sample.kimg)} kimg${value}` : "");
    const caption = [name(run.name), where, el("small", { title: run.hint }, run.hint)];
    return [figure(`cell-${i}`, { ...hueOf(i), class: "run" }, caption, sample?.src, `samples of ${run.name}`)];
  });
  $("#samples .grids").replaceChildren(...reals, ...fakes);
}

function enlarge(event) {
  event.currentTarget.closest("figure").classList.toggle("wide");
}

// ------------------------------------------------------------------------------------------------ parallel coordinates

const measured = runs.filter((run) => run.best != null);

function axes() {
  const spread = (values) => new Set(values.filter((v) => v != null)).size;
  const found = data.keys
    .map((key, k) => ({ key, of: (run) => run.values[k] }))
    .filter(({ of }) => spread(measured.map(of)) > 1)
    .filter(({ of }) => measured.some((r) => typeof of(r) === "number") || spread(measured.map(of)) <= 12);
  return measured.length >= 3 && found.length ? [...found, { key: metric, of: (run) => run.best, goal: true }] : [];
}

function place(axis, top, bottom) {
  const values = measured.map(axis.of);
  const numbers = values.filter((v) => typeof v === "number");
  const words = [...new Set(values.filter((v) => typeof v !== "number").map(text))].sort();
  if (new Set(numbers).size < 2 || words.length > 1) {
    const choices = [...new Set(values.map(text))].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
    const y = (v) => bottom - ((choices.indexOf(text(v)) + 0.5) / choices.length) * (bottom - top);
    return { y, ticks: choices.map((c) => [c, y(c)]) };
  }
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const log = low > 0 && high / low >= 10;
  const end = words.length ? bottom - 30 : bottom;
  const along = axis.goal && data.lower ? scale(low, high, top, end, log) : scale(low, high, end, top, log);
  const y = (v) => (typeof v === "number" ? along(v) : bottom);
  const own = [...new Set(numbers)];
  const inner = own.length <= 6 ? own : log ? logTicks(low, high) : niceTicks(low, high, 5);
  const ticks = [low, high];
  for (const t of inner) if (ticks.every((other) => Math.abs(y(t) - y(other)) > 16)) ticks.push(t);
  return { y, ticks: [...ticks.map((t) => [text(Number(t.toPrecision(3))), y(t)]), ...words.map((w) => [w, bottom])] };
}

function parallel() {
  const list = axes();
  const root = $("#keys .plot");
  if (!list.length) return;
  const [top, bottom, side] = [52, 300, 96];
  const width = Math.max(root.clientWidth, 150 * (list.length - 1) + 2 * side);
  const x = (a) => side + (a / (list.length - 1)) * (width - 2 * side);
  const places = list.map((axis) => place(axis, top, bottom));
  const plot = svg("svg", {
    viewBox: `0 0 ${width} ${bottom + 16}`, height: bottom + 16, role: "img",
    "aria-label": `${list.map((a) => a.key).join(", ")} of every run, joined by lines`,
  });
  plot.style.minWidth = `${width}px`;
  const order = measured.filter((run) => shown.has(runs.indexOf(run)));
  for (const run of [...order].reverse()) {
    const i = runs.indexOf(run);
    const path = list.map((axis, a) => `${x(a).toFixed(1)},${places[a].y(axis.of(run)).toFixed(1)}`).join(" ");
    const tell = (event) => {
      highlight(i);
      showTip(event.clientX, event.clientY, run.name, ...list.map((axis) => `${axis.key} ${text(axis.of(run))}`));
    };
    const worse = (0.92 * measured.indexOf(run)) / (measured.length - 1);
    const hear = { onpointermove: tell, onpointerdown: tell, onpointerleave: leave };
    plot.append(svg("g", { ...hueOf(i), class: "run parallel", "--worse": worse },
      svg("polyline", { class: "line of-metric", points: path }),
      svg("polyline", { class: "wide", points: path, ...hear })));
  }
  list.forEach((axis, a) => {
    const at = axis.key.search(/[^./]*$/);
    const title = axis.key.slice(at) + (axis.goal ? " (best on top)" : "");
    plot.append(
      svg("text", { x: x(a), y: 14, "text-anchor": "middle" }, axis.key.slice(0, at)),
      svg("text", { x: x(a), y: 31, "text-anchor": "middle", class: "title" }, title),
      svg("line", { class: "axis", x1: x(a), x2: x(a), y1: top - 6, y2: bottom + 6 }),
      ...places[a].ticks.map(([label, y]) =>
        svg("text", { x: x(a) + (axis.goal ? 8 : -8), y: y + 4, "text-anchor": axis.goal ? "start" : "end" }, label)));
  });
  $("#keys").hidden = false;
  root.replaceChildren(plot);
}

function importance() {
  if (!data.importance.length) return;
  $("#keys").hidden = false;
  const rows = data.importance.map(({ key, rho, runs: count }) => {
    const bar = el("i");
    bar.style.left = `${50 + Math.min(rho, 0) * 50}%`;
    bar.style.width = `${Math.abs(rho) * 50}%`;
    const better = rho < 0 === data.lower;
    return el("tr", {},
      el("th", { scope: "row" }, el("code", {}, key)),
      el("td", { class: "number" }, (rho > 0 ? "+" : "") + rho.toFixed(2).replace("-", "−")),
      el("td", { class: "bars" }, el("span", { class: "rho", "aria-hidden": "true" }, bar)),
      el("td", {}, Math.abs(rho) < 0.3 ? "no clear direction" : better ? "larger was better" : "smaller was better"),
      el("td", { class: "number" }, count));
  });
  const heads = [["key"], ["ρ", "number"], ["", "bars"], ["direction"], ["runs", "number"]]
    .map(([head, kind]) => el("th", { scope: "col", class: kind }, head));
  $("#importance").append(
    el("h3", {}, "Importance"),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Importance" },
      el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows))),
    el("p", { class: "quiet" },
      `ρ is Spearman's rank correlation of a numeric key with the best ${metric} of each run: +1 where the metric ` +
      "always rises with the key, −1 where it always falls, near 0 where neither does. It is a hint, not a proof: " +
      "it sees one key at a time, only monotone relations, and with few runs it is large by chance."));
}

// ------------------------------------------------------------------------------------------------ commands

function cards() {
  $("#next .cards").append(...runs.map((run, i) => {
    const rows = [["directory", run.path]];
    if (run.checkpoint) rows.push(["checkpoint", run.checkpoint]);
    if (run.overrides.length) rows.push(["overrides", run.overrides.join(" ")]);
    if (run.reason) rows.push(["reason", run.reason]);
    if (run.notes.length) rows.push(["notes", run.notes.join("\n")]);
    const prose = ["reason", "notes"];
    const terms = rows.flatMap(([term, value]) =>
      [el("dt", {}, term), el("dd", {}, prose.includes(term) ? value : el("code", {}, value))]);
    const commands = run.commands.flatMap(({ what, text: command }) => [
      el("dt", {}, what),
      el("dd", { class: "command" }, el("code", {}, command),
        el("button", {
          type: "button", "aria-label": `copy the command to ${what}`,
          onclick: (event) => copy(command, event.currentTarget),
        }, "copy")),
    ]);
    return el("details", { ...hueOf(i), class: "run", id: `run-${i}`, open: i === 0 },
      el("summary", {}, swatch(i), el("b", {}, run.name), el("span", { class: `status ${run.status}` }, run.status),
        run.best != null ? el("span", {}, text(run.best)) : null,
        run.notes.length ? el("small", {}, `${run.notes.length} note${run.notes.length > 1 ? "s" : ""}`) : null),
      el("dl", {}, ...commands, ...terms));
  }));
}

async function copy(command, button) {
  try {
    await navigator.clipboard.writeText(command);
  } catch { // no permission, or an old browser: by a selection
    const area = el("textarea", { readonly: true }, command);
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "copied";
  setTimeout(() => (button.textContent = "copy"), 1500);
}

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target?.tagName === "DETAILS") target.open = true;
}

// ------------------------------------------------------------------------------------------------ start

function redraw() {
  hideTip();
  if (data.columns.length) curves();
  if (data.moments.length) samples();
  parallel();
}

header();
table();
columnChoice();
if (data.moments.length) {
  $("#samples").hidden = false;
  $("#moment").max = data.moments.length - 1;
  $("#moment").value = data.moments.length - 1;
  $("#moment").addEventListener("input", samples);
}
if (axes().length) $("#keys").hidden = false; // it has a width only when it is shown
importance();
cards();
redraw();
let drawnAt = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== drawnAt) redraw();
  drawnAt = innerWidth;
});
addEventListener("pointerdown", (event) => event.target.closest(".plot") || hideTip());
addEventListener("scroll", hideTip, { passive: true });
addEventListener("hashchange", openTarget);
openTarget();
