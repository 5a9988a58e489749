// The frame of the page: session, top bar, stop, and which view is shown.

import { ask, openSession, post, session } from "./api.js";
import { el, setText, toast } from "./dom.js";
import { situation } from "./situation.js";
import { Wheel } from "./drive_socket.js";
import { gamepadPressesStop, Hands } from "./inputs.js";
import { Insisting } from "./insist.js";
import { follow } from "./news.js";
import { pairing } from "./views/pair.js";
import { ViewSocket } from "./view_socket.js";
import { sentence } from "./words.js";

const VIEWS = ["drive", "teach", "learn", "talk", "system"];
const main = document.getElementById("view");
const stopButton = document.getElementById("stop");
const banner = document.getElementById("banner");

const hands = new Hands();
const stopping = new Insisting("/v1/stop", () => paintBar());
const endsTheStop = (path, body) => path === "/v1/release" || (path === "/v1/mode" && body.mode !== "park");
const robot = {
  view: new ViewSocket(), wheel: new Wheel(() => hands.read()), hands, stop, act, command, say,
  driver: () => (driver === "tab" ? "other" : driver), who: () => driver, known: [], status: null,
};
let told = "none"; // who drives, as the robot says it
let driver = "none";
let leave = null;
const places = new Set(); // where the robot's sentence stands
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

/** Post something to the robot; what it adds to its yes is shown. True when it was done. */
function command(path, body = {}) {
  const { turn } = stopping;
  return act(async () => {
    const { detail } = (await post(path, body)) ?? {};
    if (endsTheStop(path, body)) stopping.end(turn);
    if (detail) toast(sentence(detail), "", "good");
  });
}

/** Stop now, and until it is heard. It never releases: a hand that hits the button twice means it. */
async function stop() {
  robot.wheel.letGo();
  await stopping.begin((error) => toast(`The stop was not heard: ${error.message}`, "It is said again until it is. Taking another mode than Park ends that."));
}

const viewName = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "drive");

async function show() {
  const name = viewName();
  const mine = ++turn;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} – ${session.robot.name || "continuonbrain"}`;
  let open;
  try {
    ({ open } = await import(`./views/${name}.js`));
  } catch {
    if (mine === turn) await again();
    return;
  }
  if (mine !== turn) return;
  leave?.();
  main.replaceChildren();
  leave = open(main, robot) ?? null;
  paintBar();
}

/** The robot went away before the view was there: a browser may remember that its file failed, so all is loaded anew. */
async function again() {
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
    if (await ask("/v1/session").then(() => true, () => false)) break;
  }
  location.reload();
}

function paintBar() {
  const { tick } = robot.view;
  const engaged = Boolean(tick?.emergency_stop);
  stopButton.toggleAttribute("data-engaged", engaged);
  setText(stopButton, stopping.on && !(engaged && robot.view.linked) ? "Stopping…" : engaged ? "Stopped" : "Stop");
  setDriver(tick?.driver ?? told, tick?.driver ? tick.watchers : session.watchers);
  if (document.hidden) return; // its connections were let go on purpose
  const now = situation({ linked: robot.view.linked, tick, driver, held: robot.wheel.held, lost: robot.wheel.lost, letGo: robot.wheel.reason, known: robot.known });
  const taught = robot.view.linked && ["lesson", "correction"].includes(tick?.recording?.as) ? `, recording a ${tick.recording.as}` : "";
  setText(document.getElementById("robot-state-text"), `${now.short}${taught}`);
  document.getElementById("robot-state").dataset.tone = now.tone;
  for (const place of places) place(now);
}

function setDriver(now, watchers) {
  session.watchers = watchers;
  told = now;
  // The wheel is ours but not this page's: the same browser shows another one.
  // While this page takes it, it is no other's.
  const taking = robot.wheel.socket?.readyState === WebSocket.CONNECTING;
  const is = robot.wheel.held ? "me" : now !== "me" ? now : taking ? "none" : "tab";
  if (is === driver) return;
  driver = is;
  robot.view.dispatchEvent(new Event("driver"));
}

/** Keep the robot's sentence in `node`, with the button that goes with it; a function that ends that. */
function say(node, shown = () => true) {
  let recent = "";
  const place = (now) => {
    node.hidden = !shown(now);
    if (node.hidden) {
      node.replaceChildren();
      recent = "";
      return;
    }
    const key = JSON.stringify(now);
    if (key === recent) return;
    recent = key;
    node.dataset.tone = now.tone;
    const button = now.action === "release" ? ["Release the stop", () => command("/v1/release")]
      : now.action === "understood" ? ["Understood", () => { robot.wheel.lost = ""; paintBar(); }] : null;
    const words = node.querySelector(".words") ?? el("span", { class: "words" });
    if (!words.isConnected) node.append(words);
    setText(words, now.words);
    node.querySelector("button")?.remove();
    if (button) node.append(el("button", { type: "button", class: "small", id: now.action === "release" ? "release" : null, onclick: button[1] }, button[0]));
  };
  places.add(place);
  paintBar();
  return () => places.delete(place);
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
    told = now.driver;
    session.watchers = now.watchers;
    paintBar();
  } catch (error) {
    if (error.status === 401) location.reload();
    paintBar();
  }
}

async function begin() {
  try {
    await openSession();
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) {
      main.replaceChildren(el("div", { class: "notice", "data-tone": "bad" }, el("p", {}, error.message), el("p", { class: "remedy" }, `${error.remedy} The page tries again by itself.`)));
      setTimeout(begin, 2000);
      return;
    }
    session.paired = false;
  }
  if (!session.paired) {
    document.querySelector(".tabs").hidden = true;
    stopButton.hidden = true;
    setText(document.getElementById("robot-state-text"), "not paired yet");
    pairing(main, () => location.replace("/"));
    return;
  }
  setText(document.getElementById("robot-name"), session.robot.name || session.robot.kind || "Robot");
  told = session.driver;
  robot.view.addEventListener("tick", paintBar);
  robot.view.addEventListener("link", paintBar);
  robot.wheel.addEventListener("change", () => { hands.listen(robot.wheel.held); told = robot.wheel.held ? "me" : "none"; paintBar(); });
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
  // Drive has it beside the wheel; elsewhere only what a person should know is above the view.
  say(banner, (now) => (viewName() !== "drive" || places.size < 2) && (now.tone === "bad" || now.tone === "warn"));
  ask("/v1/instructions").then((known) => { robot.known = known.suggestions; paintBar(); }).catch(() => {});
  follow(robot);
  globalThis.continuonbrain = { view: robot.view, wheel: robot.wheel };
  await show();
}

begin();
