// Codes and numbers in words that a person can act on.

const REASONS = {
  steering_bound: "steering was outside of its limits",
  throttle_bound: "throttle was outside of its limits",
  steering_slew: "the wheel may not turn that fast",
  steering_jerk: "the wheel may not be jerked",
  throttle_slew: "throttle may not change that fast",
  safety_head_warn: "the safety head sees the edge of the road near: slower",
  not_finite: "the command was not a number",
  wrong_keys: "the command had the wrong fields",
  wrong_type: "the command had the wrong type",
  no_path: "no path has been decided yet",
  stale_path: "the path is too old to follow",
  deadman: "nobody holds a key, the stick or a gamepad",
  clock: "the control loop was late",
  emergency_stop: "the emergency stop is on",
  instruction_stop: "the instruction says stop",
  sensor_fault: "a sensor does not answer: look at System",
  low_battery: "the battery is low: charge it",
  safety_head_block: "the safety head sees the car leaving the road",
  world_head_veto: "the world head expects this path to go wrong",
};

/** Guard reasons as one sentence; "" when there are none. */
export function reasonsInWords(reasons) {
  return reasons.map((code) => REASONS[code] || code.replaceAll("_", " ")).join("; ");
}

export const MODES = { teleop: "By hand", autopilot: "Autopilot", assisted: "Assisted", park: "Park" };

const WATCHES = {
  other: "Another person holds the wheel: they say what is recorded.",
  tab: "You hold the wheel in another tab or window: Record is there.",
};

/** What is recorded now and why, in one line; from a tick (null: nothing is heard). linked: the robot's service answers;
 * driver: as in `situation`. */
export function recordedInWords(tick, linked = true, driver = "none") {
  const told = tick?.recording;
  if (!linked) return "No connection to the robot: nothing can be recorded.";
  if (!told) return "Nothing is heard of the control process: nothing can be recorded.";
  if (WATCHES[driver]) return `${told.as ? `A ${told.as} is recorded.` : "Nothing is recorded now."} ${WATCHES[driver]}`;
  if (!told.able) return "Nothing is recorded: this robot was started with --no-record.";
  const what = `“${tick.instruction}”`;
  const next = told.lessons ? ` Your lesson ${what} is recorded when you drive by hand.` : "";
  switch (told.as) {
    case "lesson": if (told.waits) return `Your lesson ${what} waits: nothing is recorded until somebody drives.`; return `Recording your lesson ${what}: you switched it on, and it teaches.`;
    case "correction": return `Recording your correction to ${what}: it teaches.`;
    case "simulated lesson": return "The simulated teacher drives, and its lessons are recorded.";
    case "drive": return `${told.waits ? "What the autopilot drives waits: nothing is recorded until it drives." : "Recording what the autopilot drives: it is kept, and teaches nothing."}${tick.mode === "assisted" ? " Take the wheel, and that is recorded as a correction, which teaches." : next}`;
  }
  if (tick.mode === "teleop") return driver === "me" ? "Not recording: nothing that you drive now teaches. Press Record for a lesson." : "Not recording: nothing that is driven by hand now teaches. Press Record, and take the wheel, for a lesson.";
  if (tick.mode === "autopilot" || tick.mode === "assisted") return `Not recording: the autopilot's drives and corrections are switched off under Teach.${next}`;
  return told.lessons ? `Recording is on:${next}` : "Not recording. Press Record, then drive by hand: that is a lesson.";
}

export const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}${/[.?!]$/.test(words) ? "" : "."}`;

export const number = (value, digits = 2) => (typeof value === "number" && Number.isFinite(value) ? value.toFixed(digits) : "–");

export const signed = (value) => (typeof value === "number" ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}` : "–");

/** Steering in words; positive is to the left. */
export const sideways = (value) => (typeof value !== "number" ? "–" : Math.abs(value) < 0.005 ? "0.00" : `${value > 0 ? "left" : "right"} ${Math.abs(value).toFixed(2)}`);

/** What an adapter did that counts against it, as verbs of the robot. */
export const INCIDENTS = {
  block: "stopped by the safety head", warning: "slowed by the safety head", takeover: "taken over by a person",
  stop: "stopped by the guard", off_road: "off the road", correction: "corrected by the guard",
};

const COUNTED = /^(\w+): (\d+) in ([\d.]+) s of driving, before it (\d+) in ([\d.]+) s(.*)$/;

/** Why what drives changed, as a sentence: what a probation counted, or as it was given. */
export function reasonOf(reason) {
  const found = COUNTED.exec(reason);
  if (!found) return reason === "by_hand" ? "A person said so." : sentence(reason);
  const [, name, now, seconds, before, beforeSeconds, most] = found;
  return `It was ${INCIDENTS[name] ?? name.replaceAll("_", " ")} ${many(now, "time")} in ${seconds} s of driving, what drove before ${many(before, "time")} in ${beforeSeconds} s${most}.`;
}

export const many = (count, what) => `${count} ${what}${Number(count) === 1 ? "" : "s"}`;

export const short = (value) => (typeof value === "number" && Number.isFinite(value) ? String(Number(value.toPrecision(4))) : value === null || value === undefined ? "–" : String(value));

export function duration(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds > 0 && seconds < 1) return "under 1 s";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

/** A moment as a person writes it; ms since 1970. */
export function moment(ms) {
  if (!ms) return "";
  return new Date(ms).toLocaleString(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

export const brief = (sha) => (sha ? sha.slice(0, 8) : "the base alone");
