// What drove when, and why that changed.

import { el } from "../dom.js";
import { many, moment, reasonOf } from "../words.js";

const BY = { person: "a person", probation: "itself, on probation", boot: "itself, at a start" };
const EVENTS = {
  promote: ["Promoted", "good"], confirm: ["Confirmed", "good"], revert: ["Taken back on probation", "bad"],
  rollback: ["Rolled back", "bad"], abandon: ["Given up", "bad"],
};

export function history(entries, adapters) {
  if (!entries.length) return el("p", { class: "soft" }, "Nothing was promoted yet: the base alone drives.");
  const newest = [...entries].reverse();
  return el("ol", { class: "timeline" }, newest.map((entry) => {
    const [words, tone] = EVENTS[entry.event] ?? [entry.event, ""];
    const name = entry.to || "the base alone";
    const verdict = shortVerdict(entry.verdict);
    const card = adapters.find((a) => a.id === entry.to)?.card;
    const episodes = entry.episodes?.length ? entry.episodes : card?.episodes ?? [];
    return el("li", { "data-tone": tone },
      el("span", {}, el("b", {}, words), ": ", name),
      el("span", { class: "soft" }, [moment(entry.at_unix_s * 1000), entry.by && `by ${BY[entry.by] ?? entry.by}`, entry.from && `before: ${entry.from}`].filter(Boolean).join(" · ")),
      entry.reason && entry.reason !== "by_hand" ? el("span", { class: "soft" }, reasonOf(entry.reason)) : null,
      verdict ? el("span", { class: "soft" }, verdict) : null,
      episodes.length ? el("details", {}, el("summary", { class: "soft" }, taughtInWords(episodes, entry.event === "promote" ? card?.held_out : [])), el("p", { class: "soft" }, episodes.join(", "))) : null);
  }));
}

/** How many episodes taught it, and how many were kept from it: those judged it. */
export function taughtInWords(episodes, heldOut) {
  const kept = Array.isArray(heldOut) ? heldOut.length : 0;
  return `Taught by ${many(episodes.length, "episode")}${kept ? `; ${kept} more were held out to judge it` : ""}`;
}

function shortVerdict(verdict) {
  if (!verdict || typeof verdict !== "object") return "";
  if (verdict.passed) return `It passed all ${many(verdict.checks, "check")}.`;
  return `It had not passed${verdict.reason ? `: ${verdict.reason}` : ""}.`;
}
