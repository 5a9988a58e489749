// Drive: what the robot sees, what is proposed, what the guard made of it, and the wheel.

import { session } from "../api.js";
import { el, facts, panel, setText, toast } from "../dom.js";
import { bindStick, KEYS, TYPES_INTO } from "../inputs.js";
import { recording } from "./record.js";
import { guardInWords, isNew } from "../situation.js";
import { brief, MODES, number, sideways, signed } from "../words.js";

const HELD_MS = 500;
const OLD_MS = 400;
const OFFERED = 8;

export function open(main, robot) {
  const picture = livePicture(robot);
  const gauges = [gauge("Steering", -1, "left", "right", sideways), gauge("Throttle", 1, "forward", "backward", signed)];
  const why = el("p", { class: "why" });
  const modes = modeSwitch(robot);
  const pad = drivePad(robot);
  const driving = panel("Who drives", modes.node, pad.node, modes.teach); // below the stick, which it must not move
  driving.firstElementChild.append(pad.wheel);
  const more = el("div");
  const words = instructions(robot);
  const record = recording(robot, () => {});
  main.append(el("h1", { class: "visually-hidden" }, "Drive"), el("div", { class: "columns driving" },
    el("div", { class: "stack" },
      el("section", { class: "panel camera", "aria-label": "Camera" }, picture.node),
      panel("Command", gauges.map((g) => g.node),
        el("div", { class: "legend" }, el("span", { class: "proposed" }, "proposed"), el("span", { class: "guarded" }, "after the guard")), why)),
    el("div", { class: "stack" },
      driving,
      panel("Instruction", words.node),
      panel("Record a lesson", record.node),
      panel("Now", more))));

  let told = ["", 0];
  const paint = () => {
    const tick = robot.view.tick;
    const proposed = tick?.proposed ?? [null, null];
    const guarded = tick?.guarded ?? [null, null];
    gauges.forEach((g, i) => g.paint(proposed[i], guarded[i]));
    const line = guardInWords(tick);
    const now = performance.now();
    // A correction of one tick is read by nobody: what is shown stays for half a second.
    if (line !== told[0] && (!line || now - told[1] > HELD_MS)) { told = [line, now]; setText(why, line); }
    modes.paint(tick);
    pad.paint();
    words.paint(tick);
    record.paint();
  };
  const slowly = () => {
    const tick = robot.view.tick;
    more.replaceChildren(tick ? facts([
      ["Speed", tick.speed_mps === null ? "not measured" : `${number(tick.speed_mps)} m/s`],
      ["Off the road, expected", tick.safety_head === null || tick.safety_head === undefined ? null : `${Math.round(tick.safety_head * 100)} %`],
      ["Decision took", tick.decision_ms === null ? null : `${number(tick.decision_ms, 0)} ms`],
      ["Path is old by", tick.latency_ms === null ? null : `${number(tick.latency_ms, 0)} ms`],
      ["It drives with", robot.status && drivesWith(robot.status)],
      ["The last path is of", tick.adapter_sha256 === null ? "none yet" : pathOf(tick.adapter_sha256, robot.status)],
      ["Missed ticks", tick.missed_ticks],
      ["Your way to the robot and back", robot.wheel.roundTrip === null ? null : `${number(robot.wheel.roundTrip, 0)} ms`],
      ["Lesson", tick.mode === "teach" && tick.taught?.[1] ? `${tick.taught[0]} of ${tick.taught[1]} steps` : null],
      ["Recording", tick.recording?.on ? `${tick.recording.steps ?? 0} steps` : "off"],
      ["Watching", session.watchers > 1 ? `${session.watchers} connections` : null],
    ]) : el("p", { class: "soft" }, "No figures."));
  };
  const timer = setInterval(slowly, 500);
  for (const name of ["tick", "link", "driver", "status"]) robot.view.addEventListener(name, paint);
  robot.wheel.addEventListener("change", paint);
  paint();
  slowly();
  return () => {
    clearInterval(timer);
    for (const name of ["tick", "link", "driver", "status"]) robot.view.removeEventListener(name, paint);
    robot.wheel.removeEventListener("change", paint);
    robot.wheel.give();
    picture.close();
    pad.close();
  };
}

/** What drives when the autopilot does, as Learn says it. */
function drivesWith({ current, probation }) {
  return current ? `${current}${probation?.state === "probation" ? ", on probation" : ""}` : "the base alone";
}

/** What decided the last path: that may have been another adapter than the one that drives next. */
function pathOf(sha, status) {
  return sha && status?.current?.endsWith(`-${sha.slice(0, 8)}`) ? status.current : brief(sha);
}

function livePicture(robot) {
  const image = el("img", { class: "live", alt: "What the robot's camera sees now" });
  const age = el("span", { class: "tag" });
  const empty = el("div", { class: "empty" }, "No picture yet.");
  const node = el("div", { class: "picture main" }, image, el("div", { class: "over" }, age), empty);
  let url = "";
  let busy = false;
  let frame = null;
  let at = 0;
  const show = () => {
    if (busy || !frame) return;
    const { jpeg, age: arrived } = frame;
    const arrivedAt = performance.now();
    frame = null;
    busy = true;
    const mine = URL.createObjectURL(jpeg);
    const done = () => {
      if (url) URL.revokeObjectURL(url);
      url = mine;
      busy = false;
      show();
    };
    image.onload = () => {
      at = performance.now();
      robot.view.shows(arrived + at - arrivedAt);
      done();
    };
    image.onerror = done;
    image.src = mine;
  };
  const take = (event) => {
    frame = event.detail; // a slow screen shows the newest, and skips what it missed
    empty.hidden = true;
    show();
  };
  const paint = () => {
    if (!robot.view.linked || !robot.view.tick) {
      empty.hidden = false;
      setText(empty, `${robot.view.linked ? "Nothing is heard of the control process." : "No connection."}${at ? " The last picture is not shown: it is not now." : ""}`);
    }
    const since = at ? performance.now() - at + (robot.view.shown ?? 0) : Infinity;
    setText(age, since === Infinity ? "no frame" : since < OLD_MS ? `${Math.round(robot.view.shown)} ms old` : `${(since / 1000).toFixed(1)} s old`);
    age.classList.toggle("old", since >= OLD_MS);
  };
  const timer = setInterval(paint, 200);
  robot.view.addEventListener("frame", take);
  robot.view.addEventListener("link", paint);
  return { node, close() {
    clearInterval(timer);
    robot.view.removeEventListener("frame", take);
    robot.view.removeEventListener("link", paint);
    if (url) URL.revokeObjectURL(url);
  } };
}

/** sign: which way on the screen positive is; words: of a value. */
function gauge(name, sign, positive, negative, words) {
  const marks = [el("span", { class: "mark proposed" }), el("span", { class: "mark guarded" })];
  const value = el("output", { "aria-label": `${name} after the guard` });
  const scale = el("div", { class: "scale", title: `${name}: + ${positive}, − ${negative}` }, marks);
  const place = (mark, v) => {
    mark.hidden = typeof v !== "number";
    if (typeof v === "number") mark.style.left = `${50 + sign * Math.max(-1, Math.min(1, v)) * 48}%`;
  };
  return {
    node: el("div", { class: "gauge" }, el("span", { class: "label" }, name), scale, value),
    paint(proposed, guarded) {
      place(marks[0], proposed);
      place(marks[1], guarded);
      setText(value, words(guarded));
    },
  };
}

function modeSwitch(robot) {
  const choose = async (mode) => {
    if ((mode === "teleop" || mode === "assisted") && !await robot.act(() => robot.wheel.take())) return;
    robot.wheel.assist = mode === "assisted";
    await robot.command("/v1/mode", { mode });
  };
  const buttons = Object.entries(MODES).map(([mode, words]) => el("button", { type: "button", "data-mode": mode, "aria-pressed": "false", onclick: () => choose(mode) }, words));
  const teach = el("button", { type: "button", class: "small", id: "teach-it", hidden: true, onclick: () => robot.command("/v1/mode", { mode: "teach" }) }, "Let the simulator’s driver teach it");
  return {
    node: el("div", { class: "segmented", role: "group", "aria-label": "Mode" }, buttons), teach,
    paint(tick) {
      teach.hidden = tick?.life !== "taken"; // once a person has taken part, nothing happens by itself
      teach.disabled = robot.driver() === "other";
      for (const button of buttons) {
        button.setAttribute("aria-pressed", String(tick?.mode === button.dataset.mode));
        button.disabled = !tick || robot.driver() === "other";
      }
    },
  };
}

function drivePad(robot) {
  const wheel = el("button", { type: "button", id: "wheel", onclick: () => robot.act(async () => (robot.wheel.held ? robot.wheel.give("") : robot.wheel.take())) });
  const state = el("div", { class: "situation", role: "status" });
  const silent = robot.say(state);
  const stick = el("div", { class: "joystick", role: "img", "aria-label": "On-screen stick. With a keyboard use the arrow keys." }, el("div", { class: "knob" }));
  const refused = () => {
    if (!robot.view.tick || robot.view.tick.emergency_stop) return; // the sentence says what to do
    if (robot.driver() === "other") toast("The wheel is not yours: you watch.", "", "");
    else toast("You do not hold the wheel.", robot.view.tick.mode === "park" ? "Choose “By hand” to drive." : "Take the wheel to drive.", "");
  };
  const { release, follow } = bindStick(stick, robot.hands, () => robot.wheel.held, refused);
  const keyed = (event) => {
    if (!KEYS[event.code] || event.repeat || robot.wheel.held || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.(`${TYPES_INTO}, [role=region]`)) return; // it types, or scrolls
    refused();
  };
  addEventListener("keydown", keyed);
  robot.wheel.addEventListener("letgo", release);
  const keys = el("p", { class: "soft keys" }, "Keys: ", el("kbd", {}, "← ↑ ↓ →"), " or ", el("kbd", {}, "W A S D"), " drive while held, ", el("kbd", {}, "Esc"), " or ", el("kbd", {}, "Space"), " stops. A gamepad's left stick steers, its triggers drive.");
  return {
    wheel,
    node: el("div", { class: "drive-pad" }, state, stick, keys),
    paint() {
      const held = robot.wheel.held;
      const other = robot.driver() === "other";
      setText(wheel, held ? "Give the wheel back" : "Take the wheel");
      wheel.className = held ? "small" : "small primary";
      wheel.disabled = !robot.view.linked || other;
      stick.setAttribute("aria-disabled", String(!held));
      follow(held ? robot.hands.read() : { steering: 0, throttle: 0 });
    },
    close() { silent(); removeEventListener("keydown", keyed); robot.wheel.removeEventListener("letgo", release); },
  };
}

function instructions(robot) {
  const box = el("input", { id: "instruction", list: "suggestions", maxlength: "200", autocomplete: "off", required: true, enterkeyhint: "send" });
  const now = el("p", { class: "soft", role: "status" });
  const known = el("div", { class: "row tight", role: "group", "aria-label": "Instructions that it knows" });
  const tell = (instruction) => robot.command("/v1/instruct", { instruction });
  const send = async (event) => {
    event.preventDefault();
    if (await tell(box.value.trim())) box.value = "";
  };
  const label = el("label", { for: "instruction" }, "Tell it how to drive");
  const button = el("button", { type: "submit" }, "Tell");
  return {
    node: el("form", { onsubmit: send, class: "stack" }, el("div", { class: "field" }, label, el("div", { class: "joined" }, box, button)), now, known),
    paint(tick) {
      const told = tick?.instruction ?? "";
      const watches = robot.driver() === "other";
      const why = !tick ? "Nothing is heard of the robot: it cannot be told anything."
        : robot.who() === "tab" ? "You hold the wheel in another tab or window: tell it there." : watches ? "Who holds the wheel tells it." : "";
      box.disabled = button.disabled = Boolean(why);
      setText(now, why ? `${told ? `It is told “${told}”. ` : ""}${why}` : !told ? "" : isNew(told, robot.known)
        ? `It is told “${told}”. Its base was not taught these words: it may stand, or do something else, until it has learned them. It knows:` : `It is told “${told}”.`);
      if (!known.childElementCount && robot.known.length)
        known.append(...robot.known.slice(0, OFFERED).map((words) => el("button", { type: "button", class: "small", onclick: () => tell(words) }, words)));
      for (const one of known.children) one.disabled = Boolean(why);
    },
  };
}
