// What drove when, and why that changed.

import { el } from "../dom.js";
import { moment, short } from "../words.js";

const EVENTS = {
  promote: ["Promoted", "good"], confirm: ["Confirmed", "good"], revert: ["Taken back on probation", "bad"],
  rollback: ["Rolled back", "bad"], abandon: ["Given up", "bad"],
};

export function history(entries, adapters) {
  if (!entries.length) return el("p", { class: "soft" }, "Nothing was promoted yet: the base alone drives.");
  const newest = [...entries].sort((a, b) => b.at_unix_s - a.at_unix_s);
  return el("ol", { class: "timeline" }, newest.map((entry) => {
    const [words, tone] = EVENTS[entry.event] ?? [entry.event, ""];
    const name = entry.to || "the base alone";
    const verdict = shortVerdict(entry.verdict);
    const episodes = entry.episodes?.length ? entry.episodes : adapters.find((a) => a.id === entry.to)?.card?.episodes ?? [];
    return el("li", { "data-tone": tone },
      el("span", {}, el("b", {}, words), ": ", name),
      el("span", { class: "soft" }, [moment(entry.at_unix_s * 1000), entry.by && `by ${entry.by}`, entry.from && `before: ${entry.from}`].filter(Boolean).join(" · ")),
      entry.reason ? el("span", { class: "soft" }, entry.reason) : null,
      verdict ? el("span", { class: "soft" }, verdict) : null,
      episodes.length ? el("details", {}, el("summary", { class: "soft" }, `Taught by ${episodes.length} episodes`), el("p", { class: "soft" }, episodes.join(", "))) : null);
  }));
}

function shortVerdict(verdict) {
  if (!verdict || typeof verdict !== "object") return "";
  return Object.entries(verdict).filter(([, v]) => ["number", "boolean", "string"].includes(typeof v) && v !== "")
    .map(([k, v]) => `${k.replaceAll("_", " ")} ${typeof v === "number" ? short(v) : typeof v === "boolean" ? (v ? "yes" : "no") : v}`).join(", ");
}
