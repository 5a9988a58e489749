// One episode: its frames, what was commanded, and where the guard or the model disagreed.

import { ask, post } from "../api.js";
import { confirmed, el, notice, panel, setText, toast } from "../dom.js";
import { plot } from "../plots.js";
import { duration, moment, number, reasonsInWords, sideways } from "../words.js";

/** A panel with the replay of `episode` (an entry of the list). changed(): the list must be read anew. */
export function replay(episode, changed) {
  const path = `/v1/episodes/${encodeURIComponent(episode.id)}`;
  const image = el("img", { alt: "The frame of this step", src: `${path}/frames/0.jpg` });
  const slider = el("input", { type: "range", min: "0", max: String(Math.max(0, episode.steps - 1)), value: "0", "aria-label": "Step" });
  const play = el("button", { type: "button", class: "small" }, "Play");
  const where = el("output");
  const says = el("p", { class: "why", role: "status" });
  const plots = el("div", { class: "plots" });
  const about = el("p", { class: "soft" });
  const found = el("div", { class: "stack" });
  const change = actions(path, changed);
  const node = panel("Replay", about, found, el("div", { class: "picture" }, image), el("div", { class: "joined" }, slider, play), el("div", { class: "row spread" }, where), says, plots, change.node);
  const update = (now) => {
    episode = now;
    setText(about, `${now.instruction} · ${moment(now.started_unix_ms)} · ${duration(now.seconds)} · ${KIND[now.kind] ?? now.role}${now.bad ? " · left out" : ""}`);
    found.replaceChildren(...findings(now));
    found.hidden = !found.childElementCount;
    change.update(now);
  };
  update(episode);


  let columns = null;
  let index = 0;
  let timer = null;
  let charts = [];
  const show = (to, { fromPlot = false } = {}) => {
    index = Math.max(0, Math.min(to, episode.steps - 1));
    slider.value = String(index);
    image.src = `${path}/frames/${index}.jpg`;
    if (!columns) return;
    slider.setAttribute("aria-valuetext", `step ${index + 1} of ${columns.steps}, ${number(columns.time_s[index], 1)} seconds`);
    setText(where, `step ${index + 1} / ${columns.steps} · ${number(columns.time_s[index], 2)} s · steering ${sideways(columns.guarded_steering[index])} · ${number(columns.speed_mps[index])} m/s`);
    const reasons = columns.reasons[index] ?? [];
    setText(says, reasons.length ? `The guard: ${reasonsInWords(reasons)}.` : `${SOURCE[columns.source[index]] ?? columns.source[index]}: “${columns.instruction[index]}”`);
    if (!fromPlot) charts.forEach((chart) => chart.point(index));
  };
  const rest = () => { clearInterval(timer); timer = null; setText(play, "Play"); };
  slider.addEventListener("input", () => { rest(); show(Number(slider.value)); });
  play.addEventListener("click", () => {
    if (timer) { rest(); return; }
    if (index >= episode.steps - 1) show(0);
    setText(play, "Pause");
    timer = setInterval(() => (index >= episode.steps - 1 ? rest() : show(index + 1)), 100);
  });

  let closed = false;
  ask(path).then(async (told) => {
    if (closed) return;
    columns = told;
    charts = await draw(plots, told, (at) => { rest(); show(at, { fromPlot: true }); });
    if (closed) charts.forEach((chart) => chart.close());
    show(0);
  }).catch((error) => says.replaceChildren(notice(error.message, error.remedy, "bad")));
  /** update(episode): as it is listed now; hold(yes): a training reads it. */
  return { node, update, hold: change.hold, close() { closed = true; rest(); charts.forEach((chart) => chart.close()); } };
}

const KIND = { lesson: "a lesson: a person drove", "simulated lesson": "a lesson: the simulator’s driver drove", correction: "a correction: a person took the wheel", drive: "the autopilot drove" };
const SOURCE = { human_teleop_xr: "A person drove", human_teleop: "A person drove", autopilot: "The autopilot drove" };

function findings(episode) {
  const found = episode.findings ?? [];
  return found.map((f) => notice(f.problem, f.remedy, f.severity === "error" ? "bad" : "warn"));
}

async function draw(host, c, onCursor) {
  const stepped = c.time_s.filter((_, i) => (c.reasons[i] ?? []).length);
  const common = { x: c.time_s, marks: stepped, onCursor, sync: "replay" };
  const wanted = [
    ["Steering", [-1, 1], [["proposed", "--proposed", c.steering], ["after the guard", "--guarded", c.guarded_steering]]],
    ["Throttle", [-1, 1], [["proposed", "--proposed", c.throttle], ["after the guard", "--guarded", c.guarded_throttle]]],
    ["Speed in m/s", null, [["speed", "--guarded", c.speed_mps]]],
    ["Surprise and safety head", null, [["surprise", "--third", c.surprise], ["off the road, expected", "--proposed", c.safety_head]]],
  ];
  const charts = [];
  for (const [title, range, lines] of wanted) {
    const kept = lines.filter(([, , values]) => values?.some((v) => v !== null));
    if (!kept.length) continue;
    const place = el("div", { class: "plot" });
    host.append(el("h3", {}, title), place);
    charts.push(await plot(place, { ...common, title: `${title} over time`, range, lines: kept.map(([label, token, values]) => ({ label, token, values })) }));
  }
  host.append(el("p", { class: "soft" }, stepped.length ? `Shaded: the guard stepped in at ${stepped.length} of ${c.steps} steps.` : "The guard never had to step in."));
  return charts;
}

/** Label, mark and deletion of one episode; which one it is now is told by `update`. */
function actions(path, changed) {
  let episode = null;
  const label = el("input", { id: "relabel", list: "suggestions", maxlength: "400", autocomplete: "off" });
  const run = async (work, words) => {
    try {
      await work();
      toast(words, "", "good");
      await changed();
    } catch (error) {
      toast(error.message, error.remedy);
    }
  };
  const relabel = (event) => {
    event.preventDefault();
    run(() => post(path, { instruction: label.value.trim() }), "The label was changed.");
  };
  const remove = async () => {
    const detail = episode.learned ? "An adapter learned from it. It is gone for good, and cannot be looked at again." : "Nothing learned from it yet. It is gone for good.";
    if (await confirmed(`Delete “${episode.instruction}”?`, detail, "Delete", { danger: true })) run(() => ask(path, { method: "DELETE" }), "The episode was deleted.");
  };
  const say = el("button", { type: "submit" }, "Relabel");
  const mark = el("button", { type: "button", onclick: () => run(() => post(path, { bad: !episode.bad }), episode.bad ? "It is used again." : "Training leaves it out now.") });
  const gone = el("button", { type: "button", class: "danger", onclick: remove }, "Delete");
  const why = el("p", { class: "soft", role: "status", hidden: true });
  return {
    node: el("div", { class: "stack" },
      el("form", { class: "field", onsubmit: relabel }, el("label", { for: "relabel" }, "What was asked of the driver"), el("div", { class: "joined" }, label, say)),
      el("div", { class: "row spread" }, mark, gone), why),
    update(now) {
      // What is being typed is not overwritten by a look at the list.
      if (now.instruction !== episode?.instruction) label.value = now.instruction;
      episode = now;
      setText(mark, now.bad ? "Use it again" : "Mark as bad");
      mark.setAttribute("aria-pressed", String(Boolean(now.bad)));
    },
    hold(yes) {
      say.disabled = gone.disabled = yes;
      why.hidden = !yes;
      setText(why, yes ? "A training reads the episodes: label and deletion wait until it is over. A mark counts from the next training on." : "");
    },
  };
}
