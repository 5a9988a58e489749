// A verdict as a table, and the roads that the adapter drives before and after.

import { ask } from "../api.js";
import { el, facts, notice, table } from "../dom.js";
import { many, short } from "../words.js";

const percent = (share) => `${Math.round(Math.abs(share) * 100)} %`;

/** What a verdict comes to, for who reads no table; "before" is what drove when it was judged. */
export function verdictInWords(verdict) {
  const checks = verdict.checks ?? [];
  const found = Object.fromEntries(checks.filter((c) => typeof c.value === "number").map((c) => [c.name, c]));
  const { completion, following, imitation_steering: steering, forgetting } = found;
  const figures = [];
  if (completion && completion.n) figures.push(Math.abs(completion.value) < 0.005 ? "drives as far as before" : `drives ${percent(completion.value)} of a lap ${completion.value > 0 ? "further" : "less far"} than before (on ${many(completion.n, "track")})`);
  if (following && following.n) {
    const more = Math.round(following.value * following.n);
    figures.push(more ? `obeys ${Math.abs(more)} of ${following.n} instructions ${more > 0 ? "more" : "fewer"}` : "obeys as many instructions");
  }
  if (steering && Math.abs(steering.value) >= 0.005) figures.push(`steers ${percent(steering.value)} ${steering.value < 0 ? "closer to" : "further from"} the driver on episodes that were held out`);
  if (forgetting) figures.push(forgetting.value < -0.005 ? `drives ${percent(forgetting.value)} of a lap less far on the roads that the base knew` : "has forgotten nothing of the roads that the base knew");
  const failed = checks.filter((check) => !check.passed).length;
  const all = !checks.length ? "Nothing was measured." : failed ? `${failed} of ${many(checks.length, "check")} failed.` : `All ${many(checks.length, "check")} passed.`;
  if (!figures.length) return all;
  const last = figures.pop();
  return `${all} It ${figures.length ? `${figures.join(", ")}, and ${last}` : last}.`;
}

/** Every check of `verdict.json`: what was measured, its interval, what was asked for, and what it means. */
export function verdictTable(verdict) {
  const rows = (verdict.checks ?? []).map((check) => ({
    tone: check.passed ? "good" : "bad",
    cells: [
      check.passed ? "ok" : "NO",
      el("span", { title: check.meaning }, check.name.replaceAll("_", " "), el("span", { class: "visually-hidden" }, `: ${check.meaning}`)),
      short(check.value),
      check.low === null || check.low === undefined ? "" : `${short(check.low)} .. ${short(check.high)}`,
      short(check.threshold),
      check.n ? `${check.n} ${check.unit}` : "",
    ],
  }));
  const failed = (verdict.checks ?? []).filter((check) => !check.passed);
  const hashes = Object.entries(verdict.hashes ?? {}).filter(([, sha]) => sha).map(([name, sha]) => [name.replaceAll("_", " "), String(sha).slice(0, 12)]);
  return el("div", { class: "stack" },
    el("p", {}, verdictInWords(verdict)),
    failed.map((check) => notice(`${check.name.replaceAll("_", " ")}: ${check.meaning}`, "", "bad")),
    rows.length ? el("details", {}, el("summary", {}, "All measurements"), table("Checks of the verdict", ["", "Check", "Estimate#", "Interval#", "Asked for#", "From"], rows)) : null,
    hashes.length ? el("details", {}, el("summary", {}, "Bound to (sha256)"), facts(hashes)) : null);
}

/** Before and after over the same track, drawn when asked for: the simulator drives them now. */
export function rollouts(name) {
  const host = el("div", { class: "stack" });
  const button = el("button", { type: "button" }, "Show how it drives, before and after");
  host.append(button);
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "Driving in the simulator …";
    try {
      const told = await ask(`/v1/adapters/${encodeURIComponent(name)}/rollouts`);
      host.replaceChildren(el("div", { class: "rollouts" }, drawn("Before", told, told.before, told.completion_before, "--proposed"), drawn("After", told, told.after, told.completion_after, "--guarded")));
    } catch (error) {
      host.replaceChildren(notice(error.status === 404 ? "There is no simulator for this robot: nothing to draw." : error.message, error.remedy));
    }
  });
  return host;
}

function drawn(title, told, path, completion, token) {
  const words = typeof completion === "number" ? `${Math.round(completion * 100)} % of a lap` : "";
  const canvas = el("canvas", { role: "img", "aria-label": `${title}: the way driven over the track. ${words}` });
  const figure = el("figure", {}, el("figcaption", {}, el("b", {}, title), ` ${words}`), canvas);
  const draw = () => requestAnimationFrame(() => drawPath(canvas, told.track, told.half_m, path, token));
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return figure;
}

/** Points in metres, x right and y up; the whole track is in the picture. */
function drawPath(canvas, track, half, path, token) {
  const style = getComputedStyle(document.documentElement);
  const scale = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  const c = canvas.getContext("2d");
  const all = [...track, ...path];
  const [xs, ys] = [all.map((p) => p[0]), all.map((p) => p[1])];
  const [left, right, low, high] = [Math.min(...xs) - half, Math.max(...xs) + half, Math.min(...ys) - half, Math.max(...ys) + half];
  const zoom = Math.min(canvas.width / (right - left), canvas.height / (high - low)) * 0.94;
  const to = ([x, y]) => [canvas.width / 2 + (x - (left + right) / 2) * zoom, canvas.height / 2 - (y - (low + high) / 2) * zoom];
  const line = (points, width, colour, { closed = false, dash = [] } = {}) => {
    c.beginPath();
    points.forEach((p, i) => (i ? c.lineTo(...to(p)) : c.moveTo(...to(p))));
    if (closed) c.closePath();
    c.lineWidth = width;
    c.lineJoin = c.lineCap = "round";
    c.setLineDash(dash);
    c.strokeStyle = style.getPropertyValue(colour);
    c.stroke();
  };
  line(track, 2 * half * zoom, "--line", { closed: true });
  line(track, 1 * scale, "--edge", { closed: true, dash: [4 * scale, 6 * scale] });
  if (!path.length) return;
  line(path, 2.5 * scale, token);
  for (const [point, filled] of [[path[0], false], [path.at(-1), true]]) {
    c.beginPath();
    c.arc(...to(point), 5 * scale, 0, 7);
    c.setLineDash([]);
    c.fillStyle = style.getPropertyValue(filled ? token : "--panel");
    c.fill();
    c.stroke();
  }
}
