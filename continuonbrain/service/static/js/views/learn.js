// Learn: may it train, does it train, is what it learned better, and what drives since when.

import { ask, post } from "../api.js";
import { confirmed, el, facts, notice, panel, setText } from "../dom.js";
import { plot } from "../plots.js";
import { duration, INCIDENTS, many, reasonOf, sentence, short } from "../words.js";
import { history, taughtInWords } from "./history.js";
import { rollouts, verdictTable } from "./verdict.js";

const PHASES = {
  waiting: "waiting", check: "checking what drives now", gates: "waiting for the gates", read: "reading episodes", cache: "preparing frames",
  train: "training", reflex: "teaching the reflex head", judge: "judging the candidate", judged: "judged", promoted: "promoted", refused: "refused", stopped: "stopped", failed: "failed",
};
const EARLIER = 3;
/** "gates" is none: a round that waited for a gate has ended. */
const AT_WORK = new Set(["check", "read", "cache", "train", "reflex", "judge"]);

export function open(main, robot) {
  const gates = el("ul", { class: "gates" });
  const may = el("p", { role: "status" });
  const training = trainingPanel(robot, () => look());
  const candidate = el("div", { class: "stack" });
  const driving = el("div", { class: "stack" });
  const earlier = el("div", { class: "stack" });
  const past = el("div");
  const judged = el("div", { class: "stack" });
  main.append(el("h1", { class: "visually-hidden" }, "Learn"), el("div", { class: "columns" },
    el("div", { class: "stack" }, training.node, panel("Gates", may, gates), panel("Candidate", candidate)),
    el("div", { class: "stack" }, panel("What drives", driving, earlier, judged), panel("History", past))));

  let known = "";
  async function look() {
    let told;
    try {
      told = await ask("/v1/training");
    } catch (error) {
      may.replaceChildren(notice(error.message, error.remedy, "bad"));
      return;
    }
    training.paint(told);
    paintGates(gates, may, told.gates ?? []);
  }
  async function lookSlowly() {
    const [first, second, third] = await Promise.allSettled([ask("/v1/adapters"), ask("/v1/status"), ask("/v1/history")]);
    if (first.status === "rejected" || second.status === "rejected") {
      const { reason } = first.status === "rejected" ? first : second;
      candidate.replaceChildren(notice(reason.message, reason.remedy, "bad"));
      known = "";
      return;
    }
    const { adapters } = first.value;
    const entries = third.value?.entries ?? [];
    const key = JSON.stringify([second.value.current, second.value.probation?.state, adapters.map((a) => [a.id, a.slots, a.passed, a.damaged]), entries.length, third.status]);
    paintDriving(driving, second.value, adapters, entries, robot, lookSlowly);
    if (key === known) return;
    known = key;
    paintCandidate(candidate, adapters, robot, lookSlowly);
    paintEarlier(earlier, adapters, entries, robot, lookSlowly);
    paintJudged(judged, adapters.find((a) => a.slots.includes("current")));
    past.replaceChildren(third.status === "rejected" ? notice(third.reason.message, third.reason.remedy, "bad") : history(entries, adapters));
  }
  look();
  lookSlowly();
  const timers = [setInterval(look, 1000), setInterval(lookSlowly, 3000)];
  return () => { timers.forEach(clearInterval); training.close(); };
}

function paintGates(list, may, gates) {
  const closed = gates.filter((gate) => !gate.open);
  setText(may, !gates.length ? "No gates are known." : closed.length ? `It may not train now: ${closed.map((g) => g.name).join(", ")}.` : "All gates are open: it may train.");
  const key = JSON.stringify(gates);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...gates.map((gate) => el("li", { class: "gate", "data-open": String(gate.open) },
    el("span", { class: "light", role: "img", "aria-label": gate.open ? "open" : "closed" }, gate.open ? "✓" : "✕"),
    el("b", {}, gate.name.replaceAll("_", " ")),
    el("span", { class: "reading" }, gate.reason || reading(gate.value)))));
}

const reading = (value) => (value === null || value === undefined ? "" : typeof value === "number" ? short(value) : typeof value === "boolean" ? (value ? "yes" : "no") : String(value));

/** looked(): what the trainer says is to be read at once. */
function trainingPanel(robot, looked) {
  const state = el("p", { role: "status" });
  const detail = el("p", { class: "soft" });
  const said = el("p", { class: "notice", role: "status", hidden: true });
  const hurried = el("p", { class: "notice", "data-tone": "warn", role: "status", hidden: true });
  const bar = el("progress", { "aria-label": "Progress of the training", max: "1", value: "0" });
  const start = el("button", { type: "button", class: "primary" }, "Start training");
  const pause = el("button", { type: "button" }, "Pause");
  const place = el("div", { class: "plot" });
  const numbers = el("div");
  const node = panel("Training", el("div", { class: "row spread" }, state, el("div", { class: "row tight" }, start, pause)), said, detail, hurried, bar, place, numbers);
  let paused = false;
  let chart = null;
  let drawing = false;
  let asked = false;
  const act = async (action) => {
    asked = action === "start";
    start.disabled = pause.disabled = true;
    let told = null;
    await robot.act(async () => { told = await post("/v1/training", { action }); });
    asked = pause.disabled = false;
    if (told) paint(told);
    looked();
  };
  start.addEventListener("click", () => act("start"));
  pause.addEventListener("click", () => act(paused ? "resume" : "pause"));
  function paint(told) {
    const works = AT_WORK.has(told.phase);
    paused = told.paused ?? (told.gates ?? []).some((gate) => gate.name === "owner" && !gate.open);
    // "waiting" is said by a trainer, and by nobody where none ever ran.
    const none = told.running === false && !works && (told.phase === "waiting" || told.phase === "stopped");
    setText(state, paused ? "Paused by a person." : `${sentence(PHASES[told.phase] ?? told.phase ?? "not running")}${none ? " No trainer runs now." : ""}`);
    setText(hurried, told.short ? sentence(told.short) : "");
    hurried.hidden = !told.short;
    setText(detail, [told.detail && sentence(told.detail), told.left_out?.length ? `Left out: ${many(told.left_out.length, "episode")}.` : ""].filter(Boolean).join(" "));
    detail.hidden = !detail.textContent;
    // A wish stands until it has been fulfilled: the button says so, and what it waits for stands beside it.
    const waits = told.wanted && !works && !paused;
    setText(start, works ? "It learns" : waits ? "Asked for" : "Start training");
    start.disabled = asked || works || paused || waits;
    setText(said, waits && told.said ? sentence(told.said) : "");
    said.hidden = !said.textContent;
    setText(pause, paused ? "Go on" : "Pause");
    const judges = told.phase === "judge" && told.parts > 0;
    const share = told.steps ? Math.min(1, told.step / told.steps) : 0;
    bar.max = judges ? told.parts : told.steps || 1;
    bar.value = judges ? Math.max(0, told.part - 1) + share : told.step || 0;
    bar.hidden = !works || !(judges || told.steps);
    numbers.replaceChildren(facts([
      ["Measurement", judges ? `${told.part} of ${told.parts}` : null],
      ["Step", works && told.steps ? `${told.step} of ${told.steps}` : null],
      ["Loss", told.loss === null || told.loss === undefined ? null : short(told.loss)],
      ["Time left", works && typeof told.seconds_left === "number" ? duration(told.seconds_left) : null],
      ["Episodes", told.episodes ? `${told.episodes}, some held out` : null],
      ...budget(told.budget),
    ]));
    drawLoss(told.losses ?? [], told.loss_steps ?? []);
  }
  return { node, paint, close() { chart?.close(); } };
  async function drawLoss(losses, steps) {
    place.hidden = losses.length < 2;
    if (place.hidden || drawing) return;
    // Not every step is told: each loss stands at its own.
    const x = steps.length === losses.length ? steps : losses.map((_, i) => i + 1);
    place.dataset.lastStep = x.at(-1);
    if (chart) { chart.set(x, [losses]); return; }
    drawing = true;
    chart = await plot(place, { title: "Loss over the training's steps", x, xLabel: "step", height: 170, legend: false, lines: [{ label: "loss", token: "--guarded", values: losses }] });
    drawing = false;
  }
}

/** `{energy_wh: {used, limit}, write_mib: {used, limit}}` or plain values. */
function budget(told) {
  if (!told) return [];
  const names = { energy_wh: ["Energy today", "Wh"], write_mib: ["Written today", "MiB"] };
  return Object.entries(names).flatMap(([key, [words, unit]]) => {
    const { used, limit } = told[key] ?? {};
    if (used === undefined) return [];
    return [[words, `${short(used)} ${limit === null || limit === undefined ? "" : `of ${short(limit)} `}${unit}`]];
  });
}

function paintCandidate(host, adapters, robot, again) {
  const candidate = adapters.find((a) => a.slots.includes("candidate")) ?? null;
  if (!candidate) {
    host.replaceChildren(el("p", { class: "soft" }, "No candidate. A training makes one from the episodes that a person drove."));
    return;
  }
  const promote = el("button", { type: "button", class: "primary", id: "promote", disabled: !candidate.passed }, "Promote");
  promote.addEventListener("click", async () => {
    const yes = await confirmed("Let this adapter drive?", "It is on probation at first: what drives worse is taken back by itself.", "Promote");
    if (yes && await robot.act(() => post(`/v1/adapters/${encodeURIComponent(candidate.id)}/promote`))) again();
  });
  const card = candidate.card ?? {};
  host.replaceChildren(
    candidate.damaged ? notice(candidate.damaged, "Roll back or train again.", "bad") : "",
    el("div", { class: "row spread" }, el("p", {}, el("b", {}, candidate.id)), promote),
    candidate.passed === null ? notice("It is not judged yet.", "The verdict follows the training.")
      : candidate.passed ? notice("It passed: it may drive.", "", "good") : notice(`Refused: ${candidate.verdict?.reason || "see the table"}`, "Teach where it failed, then train again.", "bad"),
    taughtBy(card),
    candidate.verdict ? verdictTable(candidate.verdict) : "",
    rollouts(candidate.id));
}

/** What drove, or passed, and does not drive: promoted again where the rules allow it, else why not. */
async function paintEarlier(host, adapters, entries, robot, again) {
  const drove = new Set(entries.filter((e) => e.event === "promote").map((e) => e.to));
  const shown = adapters.filter((a) => drove.has(a.id) && !a.slots.includes("current") && !a.slots.includes("candidate")).slice(-EARLIER).reverse();
  const asked = await Promise.allSettled(shown.map((a) => ask(`/v1/adapters/${encodeURIComponent(a.id)}/promotion`)));
  host.replaceChildren(...(shown.length ? [el("h3", {}, "Drove before")] : []), ...shown.map((adapter, i) => {
    const told = asked[i].status === "fulfilled" ? asked[i].value : { may: false, reason: asked[i].reason.message, remedy: "" };
    const promote = el("button", { type: "button", disabled: !told.may, onclick: async () => {
      const warning = told.again ? `It was taken back: ${told.reason}. ` : "";
      const yes = await confirmed("Let this adapter drive again?", `${warning}It is on probation at first: what drives worse is taken back by itself.`, "Promote", { danger: told.again });
      if (yes && await robot.act(() => post(`/v1/adapters/${encodeURIComponent(adapter.id)}/promote`, { again: told.again }))) again();
    } }, "Promote again");
    return el("div", { class: "stack" },
      el("div", { class: "row spread" }, el("b", {}, adapter.id), promote),
      told.reason ? el("p", { class: "soft" }, told.may ? `You may, though ${told.reason}: you are asked once more.` : `It cannot be promoted now: ${told.reason}.`) : "",
      !told.may && told.remedy ? el("p", { class: "soft" }, told.remedy) : "");
  }));
}

/** How what drives was judged, and how it drives beside what drove before. */
function paintJudged(host, current) {
  host.replaceChildren(...(current ? [
    current.verdict ? el("h3", {}, "Its verdict") : "", current.verdict ? verdictTable(current.verdict) : "",
    rollouts(current.id),
  ] : []));
}

export function taughtBy(card) {
  const episodes = card?.episodes ?? card?.considered ?? [];
  if (!Array.isArray(episodes) || !episodes.length) return "";
  return el("details", {}, el("summary", {}, taughtInWords(episodes, card?.held_out)), el("p", { class: "soft" }, episodes.join(", ")));
}

function paintDriving(host, status, adapters, entries, robot, again) {
  const p = status.probation ?? {};
  const current = adapters.find((a) => a.slots.includes("current"));
  const previous = adapters.find((a) => a.slots.includes("previous"));
  const on = p.state === "probation";
  const base = status.base ?? {};
  const key = JSON.stringify([status.current, p, status.problem, previous?.id, entries.length, base]);
  if (host.dataset.key === key) return;
  host.dataset.key = key;
  const back = el("button", { type: "button", class: "danger", id: "rollback", disabled: !current }, "Roll back");
  back.addEventListener("click", async () => {
    const to = previous ? previous.id : "the base alone";
    if (await confirmed("Roll back?", `The robot drives with ${to} from the next decision on.`, "Roll back", { danger: true }) && await robot.act(() => post("/v1/adapters/rollback", { drives: current.id }))) again();
  });
  const confirm = el("button", { type: "button", onclick: async () => { if (await robot.act(() => post("/v1/adapters/confirm", { drives: current.id }))) again(); } }, "Confirm now");
  const incidents = Object.entries(p.incidents ?? {}).map(([name, n]) => `${n} × ${INCIDENTS[name] ?? name.replaceAll("_", " ")}`).join(", ");
  host.replaceChildren(
    status.problem ? notice(status.problem, "Look at System, or roll back.", "bad") : "",
    el("p", {}, el("b", {}, status.current || "The base alone"), status.current ? (on ? ", on probation" : ", confirmed") : ""),
    el("p", { class: "soft", id: "base" }, onBase(base)),
    on ? el("div", { class: "field" },
      el("span", { class: "label", id: "probation-label" }, `Probation: ${countdown(p)}`),
      el("progress", { "aria-labelledby": "probation-label", max: 1, value: Math.min(share(p.ticks, p.of_ticks), share(p.minutes, p.of_minutes)) }),
      el("span", { class: "soft" }, incidents ? `Incidents: ${incidents}` : "No incidents so far.")) : "",
    current ? el("div", { class: "row" }, back, on ? confirm : "") : el("p", { class: "soft" }, nothingDrives(entries)),
    current ? taughtBy(current.card) : "");
}

/** Which base all that is learned stands on; "" for the only one that there ever was. */
function onBase({ slot = "", previous = null, state = "", ...p }) {
  if (!slot && previous === null) return "";
  const name = (of) => (of ? `the imported base ${of}` : "the base of config.json");
  const before = previous === null ? "" : ` Before it drove ${name(previous)}.`;
  if (state !== "probation") return `It stands on ${name(slot)}.${before}`;
  return `It stands on ${name(slot)}, on probation: ${countdown(p)}.${before} By hand: continuonbrain base confirm, or base rollback.`;
}

/** Why the base alone drives. */
function nothingDrives(entries) {
  const promoted = entries.filter((entry) => entry.event === "promote");
  if (!promoted.length) return "Nothing was promoted yet.";
  const last = entries.at(-1);
  if (last.event === "revert") return `What drove was taken back on probation. ${reasonOf(last.reason)}`.trim();
  return last.event === "rollback" ? "What drove was rolled back." : "What was promoted drives no more: the history says why.";
}

/** How much of a probation is over, in what it asks for: ticks that were driven, minutes, or both. */
const countdown = (p) => [
  p.of_ticks ? `${p.ticks} of ${p.of_ticks} ticks driven` : "",
  p.of_minutes ? `${short(p.minutes)} of ${short(p.of_minutes)} minutes` : "",
].filter(Boolean).join(", ");
const share = (done, of) => (of ? Math.min(1, done / of) : 1);
