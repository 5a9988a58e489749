// What the robot does and what the person can do about it, in one sentence: the only place that says so. Pure.

import { reasonsInWords, sentence } from "./words.js";

const STANDING_MPS = 0.05;
const DRIVES = new Set(["teleop", "autopilot", "assisted"]);
const WATCH = {
  other: "Another person holds the wheel: you watch, and Stop works for everybody.",
  tab: "You hold the wheel in another tab or window; here you watch.",
};
const USE_IT = "You hold the wheel: choose “By hand” or “Assisted” to use it.";

/** Words of an instruction as they are compared: the model reads neither capitals nor double spaces. */
export const plain = (words) => words.toLowerCase().split(/\s+/).filter(Boolean).join(" ");

/** Whether an instruction is none of those that the base was taught; false while those are not known. */
export const isNew = (words, known) => Boolean(words) && known.length > 0 && !known.includes(plain(words));

/** “drive”, “drive slowly” and others: what could be said instead. */
export const someOf = (known) => known.length ? `It knows ${known.slice(0, 4).map((words) => `“${words}”`).join(", ")} and others.` : "";

/**
 * linked: the view's connection stands. tick: the newest, null when nothing is heard of the control process. driver:
 * "me", "tab" (this person, another page), "other" or "none"; held: this page holds the wheel. lost: why it was given
 * back; letGo: why the robot let go of it for a moment. known: instructions of the base.
 *
 * short: two words for the top bar; tone: good, idle, warn or bad; words: the sentence; action: "release" (the stop),
 * "understood" (the lost wheel) or "".
 */
export function situation({ linked, tick, driver = "none", held = false, lost = "", letGo = "", known = [] }) {
  if (!linked) return tell("no connection", "bad", "No connection to the robot. Where a person drives, it stops by itself; where the autopilot does, it goes on. The page tries again.");
  if (!tick) return tell("not running", "warn", "Nothing is heard of the control process. Start it: continuonbrain run, or on a car: systemctl start continuonbrain-control.");
  if (tick.mode === "stopped") return tell("ended", "warn", "The control process has ended.");
  if (tick.emergency_stop) {
    const fault = tick.fault ? `There is a fault, too: ${tick.fault}.` : "";
    if (driver === "other") return tell("emergency stop", "bad", "The emergency stop is on: it stands until the person at the wheel releases it.", fault);
    return tell("emergency stop", "bad", "The emergency stop is on. Release it here, or choose a mode: each ends it. In Park it stands all the same.", fault, "release");
  }
  const watch = held ? "" : WATCH[driver] ?? "";
  if (tick.fault) return tell("fault", "bad", `Fault: ${tick.fault}.`, watch);
  if (tick.astray) return tell("off the road", "warn", sentence(tick.astray), watch);
  const found = ofMode(tick, { driver, held, letGo, known, watch });
  if (!lost || held || watch) return found;
  return { ...found, tone: found.tone === "bad" ? "bad" : "warn", words: `You gave the wheel back: ${lost}. ${found.words}`, action: "understood" };
}

function ofMode(tick, { driver, held, letGo, known, watch }) {
  const unused = held ? USE_IT : watch;
  const stands = tick.stopped;
  const why = reasonsInWords(tick.reasons ?? []);
  switch (tick.mode) {
    case "teach":
      return tell("being taught", "idle", "It is being taught by the simulator’s own driver; then it stands until it has learned that, and then it will drive by itself.", watch);
    case "park":
      return tell("parked", "idle", tick.phase === "park" && !tick.held
        ? "It stands until it has learned what it was taught; then it will drive by itself."
        : "It is parked until a person chooses a mode.", unused);
    case "teleop":
      if (watch) return tell(stands ? "by hand, standing" : "driven by hand", stands ? "idle" : "good", watch);
      if (held && letGo) return tell("by hand, standing", "warn", `The robot let go of the wheel: ${letGo}.`);
      if (!stands) return tell("driven by hand", "good", held ? "You drive by hand." : "A person drives it with its own remote control.");
      if (held) return onlyHandsOff(tick) ? tell("by hand, standing", "idle", "You hold the wheel: press a key, the stick or a gamepad, and it will drive.")
        : tell("by hand, standing", "warn", `You hold the wheel, and it stands: ${why}.`);
      return tell("by hand, standing", "warn", "It is to be driven by hand, and nobody holds the wheel: it stands. Take the wheel.");
    case "assisted":
      if (stands && !held && !watch) return tell("assisted, standing", "warn", "Assisted driving needs a person at the wheel: it stands. Take the wheel.");
      if (stands) return tell("assisted, standing", held ? "warn" : "idle", held && letGo ? `The robot let go of the wheel: ${letGo}.` : standing(tick, why, known), watch);
      if (tick.by === "person") return tell("assisted, by hand", "good", held ? "You drive; the autopilot goes on when you let go." : watch || "A person drives it with its own remote control.");
      return tell("autopilot, assisted", "good", `The autopilot drives${held ? `; what you hold goes before it${tick.recording?.drives ? ", and is recorded as a correction" : ""}` : ""}.`, watch);
    default: {
      if (stands && tick.reasons?.includes("instruction_stop")) return tell("autopilot, standing", "idle", "It stands, as it was told.", unused);
      if (stands) return tell("autopilot, standing", "warn", standing(tick, why, known), unused);
      if (isNew(tick.instruction, known) && Math.abs(tick.speed_mps ?? 1) < STANDING_MPS)
        return tell("autopilot, standing", "warn", `It stands: “${tick.instruction}” is none of the instructions that its base was taught. ${someOf(known)}`, unused);
      return tell("autopilot", "good", "The autopilot drives.", unused);
    }
  }
}

const onlyHandsOff = (tick) => (tick.reasons ?? []).every((code) => code === "deadman");

/** Why it stands on the autopilot: what the policy says of it, else what the guard does. */
function standing(tick, why, known) {
  const { refusal = "", problem = "" } = tick.policy ?? {};
  if (!(tick.reasons ?? []).some((code) => code === "no_path" || code === "stale_path")) return why ? `It stands: ${why}.` : "It stands.";
  if (refusal) return `It stands: ${refusal}. ${someOf(known)}`.trim();
  if (problem) return `It stands without a path: ${problem}.`;
  if (isNew(tick.instruction, known)) return `It stands: there is no path for “${tick.instruction}”, which its base was not taught. ${someOf(known)}`;
  return `It stands: ${why}.`;
}

function tell(short, tone, words, more = "", action = "") {
  return { short, tone, words: more ? `${words} ${more}` : words, action };
}

/** What the guard made of the command, beside the gauges; "" where it stands: the sentence says why. */
export function guardInWords(tick) {
  if (!tick || tick.stopped || !DRIVES.has(tick.mode)) return "";
  const reasons = tick.reasons ?? [];
  return reasons.length ? `Corrected: ${reasonsInWords(reasons)}.` : "The guard follows the command as it is.";
}
