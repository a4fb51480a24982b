// Files of the picture that is shown, and films, which take a while and can be cancelled.

import { answer } from "./projections.js";

const byId = (id) => document.getElementById(id);
const FPS = 24;
const EVERY = 500;

// link(): the text of the state; say(text, bad): what the page tells
export function setUpSaving(model, link, say) {
  const fileName = (ending) => `${link().replace(/[^\w.-]+/g, "_").slice(0, 80)}.${ending}`;

  async function save(url, name) {
    say("saving …");
    try {
      const blob = await (await answer(await fetch(url))).blob();
      const anchor = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
      say(`saved ${name}`);
    } catch (error) {
      say(error.message, true);
    }
  }

  async function saveOnce(button, url, name) {
    button.disabled = true;
    await save(url, name);
    button.disabled = false;
  }

  let film = null; // the id of the one that is being made

  async function saveFilm() {
    const id = film = [...crypto.getRandomValues(new Uint8Array(8))].map((x) => x.toString(16).padStart(2, "0")).join("");
    const kind = byId("kind").value, frames = FPS * Number(byId("seconds").value);
    const look = async () => {
      const response = await fetch(`api/film/${id}`).catch(() => null);
      const { frame } = response?.ok ? await response.json() : {};
      if (film === id && frame) say(`film: frame ${frame} of ${frames}`);
    };
    const looking = setInterval(look, EVERY);
    byId("film").textContent = "Cancel film";
    await save(`api/film?${link()}&frames=${frames}&fps=${FPS}&kind=${kind}&id=${id}`, fileName(kind));
    clearInterval(looking);
    film = null;
    byId("film").textContent = "Save film";
  }

  const cancel = () => fetch(`api/film/${film}`, { method: "DELETE" }).catch(() => {});

  model.films.forEach((kind) => byId("kind").append(new Option(kind)));
  byId("png").onclick = () => saveOnce(byId("png"), `api/image?${link()}&download`, fileName("png"));
  byId("codes").onclick = () => saveOnce(byId("codes"), `api/codes?${link()}`, fileName("safetensors"));
  byId("film").onclick = () => (film ? cancel() : saveFilm());
  byId("link").onclick = async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      say("the link is copied");
    } catch {
      say(location.href);
    }
  };
}
