// Teach: record what a person shows, and look at what was recorded.

import { ask } from "../api.js";
import { el, notice, panel, setText } from "../dom.js";
import { recording } from "./record.js";
import { replay } from "./replay.js";
import { duration, many, moment } from "../words.js";

const PAGE = 48;
const MOST = 200;
const HELD_MS = 2000;
const KINDS = { lesson: "Lesson", "simulated lesson": "Simulated lesson", correction: "Correction", drive: "Autopilot drive" };
/** What became of an episode in training. */
const FATES = { unjudged: "trained on, not judged", refused: "trained on, refused", passed: "learned, not driving", drives: "learned" };

export function open(main, robot) {
  const list = el("ul", { class: "episodes" });
  const more = el("button", { type: "button", hidden: true, onclick: () => read({ older: true }) }, "Older episodes");
  const count = el("p", { role: "status" });
  const bar = el("progress", { "aria-label": "Episodes taught towards a training", value: "0", max: "1" });
  const side = el("div", { class: "stack" });
  const empty = el("p", { class: "soft" }, "Looking …");
  const record = recording(robot, () => setTimeout(read, 700), { drives: true });
  const blank = panel("Replay", el("p", { class: "soft" }, "Choose an episode to see what it teaches."));
  side.append(blank);
  main.append(el("h1", { class: "visually-hidden" }, "Teach"), el("div", { class: "columns" },
    el("div", { class: "stack" }, panel("Record", record.node, count, bar), panel("Episodes", empty, list, more)), side));

  let shown = null;
  let chosen = "";
  let last = "";
  let later = 0;
  let held = false; // a training reads the episodes
  const choose = (episode, button) => {
    shown?.close();
    for (const other of list.querySelectorAll(".episode")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    chosen = episode.id;
    shown = replay(episode, () => read());
    shown.hold(held);
    side.replaceChildren(shown.node);
    if (matchMedia("(max-width: 860px)").matches) shown.node.scrollIntoView({ block: "start" });
  };

  async function read({ older = false } = {}) {
    let told;
    // What was listed before stays listed.
    const limit = older === true ? PAGE : Math.min(MOST, Math.max(PAGE, list.childElementCount));
    try {
      told = await ask(`/v1/episodes?limit=${limit}${older === true && last ? `&before=${encodeURIComponent(last)}` : ""}`);
    } catch (error) {
      empty.hidden = false;
      empty.replaceChildren(notice(error.message, error.remedy, "bad"));
      return;
    }
    const before = document.activeElement?.closest?.(".episode")?.dataset.id;
    if (older !== true) list.replaceChildren();
    for (const episode of told.episodes) list.append(entry(episode, choose, episode.id === chosen));
    if (before) [...list.querySelectorAll(".episode")].find((one) => one.dataset.id === before)?.focus({ preventScroll: true });
    const now = told.episodes.find((episode) => episode.id === chosen);
    if (now) shown?.update(now);
    last = told.episodes.at(-1)?.id ?? last;
    more.hidden = told.episodes.length < limit;
    empty.hidden = list.childElementCount > 0;
    if (!empty.hidden) setText(empty, "Nothing is recorded yet. Press Record, then drive by hand: under Drive there is a Record button, too.");
    const missing = Math.max(0, told.min_episodes - told.taught);
    bar.max = told.min_episodes || 1;
    bar.value = Math.min(told.taught, bar.max);
    setText(count, missing ? `${told.taught} of ${told.min_episodes} episodes taught: ${missing} more before it may learn.` : `${told.taught} episodes taught: enough to learn from (${told.min_episodes} are needed).`);
    // The doctor looks at one episode after the other: what it found comes later.
    clearTimeout(later);
    if (older !== true && told.episodes.some((e) => e.findings === null)) later = setTimeout(read, 2000);
    if (chosen && !list.querySelector("[aria-pressed=true]") && older !== true) {
      shown?.close();
      shown = null;
      chosen = "";
      side.replaceChildren(blank);
    }
  }
  const look = () => ask("/v1/training").then(({ holds }) => {
    held = Boolean(holds);
    shown?.hold(held);
  }).catch(() => {});
  read();
  look();
  const looking = setInterval(look, HELD_MS);
  const timer = setInterval(record.paint, 300);
  record.paint();
  return () => { clearInterval(timer); clearInterval(looking); clearTimeout(later); shown?.close(); };
}

function entry(episode, choose, pressed) {
  const worst = (episode.findings ?? []).some((f) => f.severity === "error") ? "bad" : episode.findings?.length ? "warn" : null;
  const tags = [
    episode.bad && el("span", { class: "chip" }, "left out"),
    FATES[episode.fate] && el("span", { class: "chip", "data-tone": episode.learned ? "good" : null }, el("span", { class: "dot", "aria-hidden": "true" }), FATES[episode.fate]),
    worst && el("span", { class: "chip", "data-tone": worst }, el("span", { class: "dot", "aria-hidden": "true" }), many(episode.findings.length, "finding")),
  ];
  const button = el("button", { type: "button", class: "episode", "aria-pressed": String(pressed), "data-bad": episode.bad || null, "data-id": episode.id },
    el("img", { src: episode.thumbnail, alt: "", loading: "lazy", width: "160", height: "120" }),
    el("span", { class: "about" }, el("b", {}, episode.instruction), el("span", { class: "soft" }, KINDS[episode.kind] ?? episode.role), el("span", { class: "soft" }, `${duration(episode.seconds)} · ${moment(episode.started_unix_ms)}`), tags.some(Boolean) && el("span", { class: "row tight" }, tags)));
  button.addEventListener("click", () => choose(episode, button));
  return el("li", {}, button);
}
