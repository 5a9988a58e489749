// The frame of the page: session, top bar, stop, and which view is shown.

import { ask, openSession, post, session } from "./api.js";
import { el, setText, toast } from "./dom.js";
import { Wheel } from "./drive_socket.js";
import { gamepadPressesStop, Hands } from "./inputs.js";
import { pairing } from "./views/pair.js";
import { ViewSocket } from "./view_socket.js";
import { stateInWords } from "./words.js";

const VIEWS = ["drive", "teach", "learn", "talk", "system"];
const main = document.getElementById("view");
const stopButton = document.getElementById("stop");
const banner = document.getElementById("banner");

const hands = new Hands();
const robot = { view: new ViewSocket(), wheel: new Wheel(() => hands.read()), hands, stop, act, driver: () => (driver === "tab" ? "other" : driver) };
let told = "none"; // who drives, as the robot says it
let driver = "none";
let leave = null;
let turn = 0;

/** Do something that may be refused: the problem is shown, with its remedy. True when it was done. */
async function act(work) {
  try {
    await work();
    return true;
  } catch (error) {
    toast(error.message, error.remedy);
    return false;
  }
}

/** Stop now. It never releases: a hand that hits the button twice means it. */
async function stop() {
  robot.wheel.letGo();
  await act(() => post("/v1/stop"));
}

async function show() {
  const name = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "drive";
  const mine = ++turn;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} – ${session.robot.name || "continuonbrain"}`;
  const { open } = await import(`./views/${name}.js`);
  if (mine !== turn) return;
  leave?.();
  main.replaceChildren();
  leave = open(main, robot) ?? null;
}

function paintBar() {
  const { tick, linked } = robot.view;
  const [words, tone] = stateInWords(tick, linked);
  setText(document.getElementById("robot-state-text"), words);
  document.getElementById("robot-state").dataset.tone = tone;
  const engaged = Boolean(tick?.emergency_stop);
  stopButton.toggleAttribute("data-engaged", engaged);
  setText(stopButton, engaged ? "Stopped" : "Stop");
  if (engaged !== stoppedNow) { stoppedNow = engaged; setDriver(told); }
  if (tick?.driver) setDriver(tick.driver, tick.watchers);
  else if (!tick) setDriver(told);
}

let recent = "";
let stoppedNow = false;
function setDriver(now, watchers = session.watchers) {
  session.watchers = watchers;
  told = now;
  // The wheel is ours but not this page's: the same browser shows another one.
  driver = robot.wheel.held ? "me" : now === "me" ? "tab" : now;
  const words = !robot.view.linked && !document.hidden
    ? ["bad", "No connection to the robot. It stops by itself when nobody steers; the page tries again."]
    : stoppedNow
      ? ["bad", "The emergency stop is on."]
    : driver === "other"
      ? ["warn", "Another person drives. You watch; Stop works for everybody."]
      : driver === "tab"
        ? ["warn", "You drive in another tab or window. Here you watch."]
      : robot.wheel.lost
        ? ["warn", `You gave the wheel back: ${robot.wheel.lost}.`]
        : null;
  const key = JSON.stringify([words, driver]);
  if (key === recent) return;
  recent = key;
  banner.hidden = !words;
  if (words) {
    banner.dataset.tone = words[0];
    banner.replaceChildren(words[1]);
    if (stoppedNow && robot.view.linked) {
      banner.append(el("button", { type: "button", class: "small", id: "release", onclick: () => act(() => post("/v1/release")) }, "Release the stop"));
    } else if (robot.wheel.lost && driver === "none" && robot.view.linked) {
      banner.append(el("button", { type: "button", class: "small", onclick: () => { robot.wheel.lost = ""; setDriver(told); } }, "Understood"));
    }
  }
  robot.view.dispatchEvent(new Event("driver"));
}

function stopKeys(event) {
  if (document.querySelector("dialog[open]") || event.repeat) return;
  const field = event.target.closest?.("input, textarea, select");
  const control = event.target.closest?.("button, a, summary, [role=button]");
  const space = event.code === "Space" && !field && (robot.wheel.held || (!control && location.hash !== "#talk"));
  if (event.key !== "Escape" && !space) return;
  event.preventDefault();
  stop();
}

async function watchSession() {
  if (document.hidden) return;
  try {
    const now = await ask("/v1/session");
    session.csrf = now.csrf;
    if (!robot.view.tick?.driver) setDriver(now.driver, now.watchers);
  } catch (error) {
    if (error.status === 401) location.reload();
    setDriver(told);
  }
}

async function begin() {
  try {
    await openSession();
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) {
      main.replaceChildren(el("div", { class: "notice", "data-tone": "bad" }, el("p", {}, error.message), el("p", { class: "remedy" }, error.remedy)));
      setTimeout(begin, 2000);
      return;
    }
    session.paired = false;
  }
  if (!session.paired) {
    document.querySelector(".tabs").hidden = true;
    stopButton.hidden = true;
    pairing(main, () => location.replace("/"));
    return;
  }
  setText(document.getElementById("robot-name"), session.robot.name || session.robot.kind || "Robot");
  told = session.driver;
  robot.view.addEventListener("tick", paintBar);
  robot.view.addEventListener("link", () => { paintBar(); setDriver(told); });
  robot.wheel.addEventListener("change", () => { hands.listen(robot.wheel.held); setDriver(robot.wheel.held ? "me" : "none"); });
  robot.wheel.addEventListener("letgo", () => hands.letGo());
  stopButton.addEventListener("click", stop);
  addEventListener("keydown", stopKeys);
  // A space that stopped must not press the button it was let go on.
  addEventListener("keyup", (event) => { if (event.code === "Space" && robot.wheel.held && event.target.closest?.("button")) event.preventDefault(); });
  addEventListener("hashchange", async () => { await show(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
  // Nobody looks at a hidden page: the robot need not encode for it.
  document.addEventListener("visibilitychange", () => (document.hidden ? robot.view.stop() : robot.view.start()));
  if (!document.hidden) robot.view.start();
  setInterval(watchSession, 3000);
  setInterval(() => { if (robot.wheel.held && gamepadPressesStop() && !robot.view.tick?.emergency_stop) stop(); }, 100);
  globalThis.continuonbrain = { view: robot.view, wheel: robot.wheel };
  await show();
}

begin();
