// What the robot does and what the person can do about it, in one sentence: the only place that says so. Pure.

import { reasonsInWords, sentence } from "./words.js";

const STANDING_MPS = 0.05; // of what is measured: below it a car stands
const DRIVES = new Set(["teleop", "autopilot", "assisted"]);
const WATCH = {
  other: "Another person holds the wheel: you watch, and Stop works for everybody.",
  tab: "You hold the wheel in another tab or window; here you watch.",
};
/** Where only a person gets it away: from a spot at which the safety head lets nothing drive. */
const BACK = "Carry it back to the road, or choose “By hand” and drive it back a little.";
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
    const on = rolls(tick) ? "The emergency stop is on, and it comes to a stop." : "The emergency stop is on.";
    if (driver === "other") return tell("emergency stop", "bad", rolls(tick) ? `${on} The person at the wheel releases it.` : "The emergency stop is on: it stands until the person at the wheel releases it.", fault);
    return tell("emergency stop", "bad", `${on} Release it here, or choose a mode: each ends it.${rolls(tick) ? "" : " In Park it stands all the same."}`, fault, "release");
  }
  const watch = held ? "" : WATCH[driver] ?? "";
  if (tick.fault) return tell("fault", "bad", `Fault: ${tick.fault}.`, watch);
  if (tick.astray) return tell("off the road", "warn", sentence(tick.astray), watch);
  const found = ofMode(tick, { driver, held, letGo, known, watch });
  if (!lost || held || watch) return found;
  return { ...found, tone: found.tone === "bad" ? "bad" : "warn", words: `You gave the wheel back: ${lost}. ${found.words}`, action: "understood" };
}

/** What was stopped coasts for a while: its throttle is 0 and its wheels turn. */
const rolls = (tick) => Math.abs(tick.speed_mps ?? 0) > STANDING_MPS;

function ofMode(tick, { driver, held, letGo, known, watch }) {
  const unused = held ? USE_IT : watch;
  const stands = tick.stopped;
  const why = reasonsInWords(tick.reasons ?? []);
  const still = rolls(tick) ? "it comes to a stop" : "it stands";
  const byHand = `by hand, ${rolls(tick) ? "stopping" : "standing"}`;
  const assisted = `assisted, ${rolls(tick) ? "stopping" : "standing"}`;
  const alone = `autopilot, ${rolls(tick) ? "stopping" : "standing"}`;
  switch (tick.mode) {
    case "teach":
      return tell("being taught", "idle", "It is being taught by the simulator’s own driver; then it stands until it has learned that, and then it will drive by itself.", watch);
    case "park":
      if (rolls(tick)) return tell("parking", "idle", "It comes to a stop, and stays there until a person chooses a mode.", unused);
      return tell("parked", "idle", tick.phase === "park" && !tick.held
        ? "It stands until it has learned what it was taught; then it will drive by itself."
        : "It is parked until a person chooses a mode.", unused);
    case "teleop":
      if (watch) return tell(stands ? byHand : "driven by hand", stands ? "idle" : "good", watch);
      if (held && letGo) return stands ? tell(byHand, "warn", `The robot let go of the wheel: ${letGo}.${rolls(tick) ? " It comes to a stop." : ""}`)
        : tell("driven by hand", "warn", `You drive by hand; a moment ago the robot let go of the wheel: ${letGo}.`);
      if (!stands) return tell("driven by hand", "good", held ? "You drive by hand." : "A person drives it with its own remote control.");
      if (held) return onlyHandsOff(tick) ? tell(byHand, "idle", rolls(tick) ? "You hold the wheel, and let go: it comes to a stop." : "You hold the wheel: press a key, the stick or a gamepad, and it will drive.")
        : tell(byHand, "warn", `You hold the wheel, and ${still}: ${why}.`);
      return tell(byHand, "warn", `It is to be driven by hand, and nobody holds the wheel: ${still}. Take the wheel, or choose Park: until then it does not learn.`);
    case "assisted":
      if (stands && !held && !watch) return tell(assisted, "warn", `Assisted driving needs a person at the wheel: ${still}. Take the wheel, or choose Autopilot or Park.`);
      if (stands) return tell(assisted, held ? "warn" : "idle", held && letGo ? `The robot let go of the wheel: ${letGo}.` : standing(tick, why, known, still, watch ? "" : BACK), watch);
      if (tick.by === "person") return tell("assisted, by hand", "good", held ? "You drive; the autopilot goes on when you let go." : watch || "A person drives it with its own remote control.");
      return tell("autopilot, assisted", "good", `The autopilot drives${held ? `; what you hold goes before it${tick.recording?.drives ? ", and is recorded as a correction" : ""}` : ""}.`, watch);
    default: {
      if (stands && tick.reasons?.includes("instruction_stop")) return tell(alone, "idle", rolls(tick) ? "It comes to a stop, as it was told." : "It stands, as it was told.", unused);
      if (stands) return tell(alone, "warn", standing(tick, why, known, still, watch ? "" : BACK), unused);
      if (isNew(tick.instruction, known) && typeof tick.speed_mps === "number" && !rolls(tick))
        return tell("autopilot, standing", "warn", `It stands: “${tick.instruction}” is none of the instructions that its base was taught. ${someOf(known)}`, unused);
      return tell("autopilot", "good", "The autopilot drives.", unused);
    }
  }
}

const onlyHandsOff = (tick) => (tick.reasons ?? []).every((code) => code === "deadman");

/** Why it stands on the autopilot: what the policy says of it, else what the guard does. still: "it stands", or comes to
 * that; back: what a person does where the safety head lets nothing drive. */
function standing(tick, why, known, still, back) {
  const { refusal = "", problem = "" } = tick.policy ?? {};
  const it = `${still[0].toUpperCase()}${still.slice(1)}`;
  const reasons = tick.reasons ?? [];
  if (reasons.includes("safety_head_block")) return `${it}: ${why}. ${back}`.trim();
  if (!reasons.some((code) => code === "no_path" || code === "stale_path")) return why ? `${it}: ${why}.` : `${it}.`;
  if (refusal) return `${it}: ${refusal}. ${someOf(known)}`.trim();
  if (problem) return `${it} without a path: ${problem}.`;
  if (isNew(tick.instruction, known)) return `${it}: there is no path for “${tick.instruction}”, which its base was not taught. ${someOf(known)}`;
  return `${it}: ${why}.`;
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
