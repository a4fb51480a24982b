// The state of a picture <-> the text of a link, as `state.py` reads and writes it.

export const START = { a: { seed: 0 }, b: null, mix: [], psi: 1, cutoff: null, noise: "const", moves: {} };

export function pointText(point) {
  if (point.code) return `w${point.code}`;
  return point.label === undefined ? `${point.seed}` : `${point.seed}c${point.label}`;
}

function parsePoint(text) {
  const kept = /^w([0-9a-f]{16})$/.exec(text);
  if (kept) return { code: kept[1] };
  const seed = /^([0-9]{1,10})(?:c([0-9]{1,6}))?$/.exec(text);
  if (!seed) return null;
  return seed[2] === undefined ? { seed: Number(seed[1]) } : { seed: Number(seed[1]), label: Number(seed[2]) };
}

export function write(state) {
  const parts = [`a=${pointText(state.a)}`];
  if (state.b) parts.push(`b=${pointText(state.b)}`);
  if (state.psi !== 1) parts.push(`psi=${state.psi}`);
  if (state.cutoff !== null) parts.push(`cutoff=${state.cutoff}`);
  if (state.b && state.mix.some((t) => t)) {
    parts.push("mix=" + (state.mix.every((t) => t === state.mix[0]) ? state.mix[0] : state.mix.join(",")));
  }
  if (state.noise !== "const") parts.push(`noise=${state.noise}`);
  for (const name of Object.keys(state.moves).sort()) {
    if (state.moves[name]) parts.push(`d=${encodeURIComponent(name)}:${state.moves[name]}`);
  }
  return parts.join("&");
}

// What a link leaves out, or has wrongly, is as at the start; the server tells about what it does not know.
export function read(text, model) {
  const query = new URLSearchParams(text);
  const state = structuredClone(START);
  const finite = (value, otherwise) => (value !== null && value !== "" && isFinite(value) ? Number(value) : otherwise);
  state.a = parsePoint(query.get("a") ?? "") ?? state.a;
  state.b = parsePoint(query.get("b") ?? "");
  for (const point of [state.a, state.b]) {
    if (point && !point.code && model.classes) point.label ??= 0;
    if (point && !model.classes) delete point.label;
  }
  state.psi = finite(query.get("psi"), 1);
  state.cutoff = finite(query.get("cutoff"), null);
  const weights = (query.get("mix") ?? "").split(",").map((t) => finite(t, 0));
  state.mix = Array.from({ length: model.styles }, (_, i) => (weights.length === 1 ? weights[0] : weights[i] ?? 0));
  state.noise = model.noise.includes(query.get("noise")) ? query.get("noise") : "const";
  for (const move of query.getAll("d")) {
    const colon = move.lastIndexOf(":");
    const name = move.slice(0, colon);
    if (model.directions.includes(name)) state.moves[name] = finite(move.slice(colon + 1), 0);
  }
  return state;
}
