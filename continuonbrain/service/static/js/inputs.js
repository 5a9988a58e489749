// What a person's hands say: keys, stick, gamepad. The rule at the bottom is pure; everything lets go together.

export const KEYS = { ArrowLeft: "left", KeyA: "left", ArrowRight: "right", KeyD: "right", ArrowUp: "up", KeyW: "up", ArrowDown: "down", KeyS: "down" };
const DEAD_ZONE = 0.12;
export const TYPES_INTO = "input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]";

export class Hands {
  constructor() {
    this.keys = new Set();
    this.stick = null;
    this.padRested = false;
    this.listening = false;
    addEventListener("keydown", (event) => this.key(event, true));
    addEventListener("keyup", (event) => this.key(event, false));
  }

  /** Only while this page drives do arrow keys steer instead of scrolling. */
  listen(on) {
    this.listening = on;
    if (!on) this.letGo();
  }

  letGo() {
    this.keys.clear();
    this.stick = null;
    this.padRested = false;
  }

  key(event, down) {
    const way = KEYS[event.code];
    if (!way) return;
    if (!down) { this.keys.delete(way); return; }
    if (!this.listening || event.target.closest?.(TYPES_INTO) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    // A key that was let go by the page (hidden, another window) is pressed anew, not by its own repeating.
    if (!event.repeat) this.keys.add(way);
  }

  /** The command now. Positive steering turns left. */
  read() {
    const pad = readPad();
    // A gamepad that is held over when the wheel is taken, or that rests off its middle, drives nothing.
    if (!pad) this.padRested = false;
    else if (!beyond(pad.x) && !beyond(pad.y)) this.padRested = true;
    return commandOf({ keys: this.keys, stick: this.stick, pad: this.padRested ? pad : null });
  }
}

function readPad() {
  for (const pad of navigator.getGamepads?.() ?? []) {
    // Of others it is not known which axis is what: a trigger that rests at -1 would be full throttle.
    if (!pad?.connected || pad.mapping !== "standard") continue;
    const forward = (pad.buttons[7]?.value ?? 0) - (pad.buttons[6]?.value ?? 0);
    return { x: pad.axes[0], y: Math.abs(forward) > DEAD_ZONE ? forward : -pad.axes[3], stop: Boolean(pad.buttons[1]?.pressed) };
  }
  return null;
}

const beyond = (value) => (Math.abs(value) < DEAD_ZONE ? 0 : Math.max(-1, Math.min(1, value)));

/** Stick before gamepad before keys. active: something is held. */
export function commandOf({ keys, stick, pad }) {
  if (stick) return { steering: beyond(-stick.x), throttle: beyond(stick.y), active: true };
  if (pad && !pad.stop && (beyond(pad.x) || beyond(pad.y))) return { steering: beyond(-pad.x), throttle: beyond(pad.y), active: true };
  const side = (keys.has("left") ? 1 : 0) - (keys.has("right") ? 1 : 0);
  const ahead = (keys.has("up") ? 1 : 0) - (keys.has("down") ? 1 : 0);
  // Keys know no halves: less than full, so that a tap is no jerk. The guard limits how fast both may change.
  return { steering: side * 0.7, throttle: ahead * 0.5, active: keys.size > 0 };
}

export const gamepadPressesStop = () => Boolean(readPad()?.stop);

/** An on-screen stick on `node` with a `.knob`; moved by pointers, let go with them. refused(): it was touched where that is not `allowed`. */
export function bindStick(node, hands, allowed, refused) {
  const knob = node.querySelector(".knob");
  const show = (x, y) => { knob.style.transform = `translate(${x * 50}%, ${-y * 50}%) translate(${x * 28}px, ${-y * 28}px)`; };
  const move = (event) => {
    const box = node.getBoundingClientRect();
    const x = (event.clientX - box.left - box.width / 2) / (box.width / 2 - 20);
    const y = -(event.clientY - box.top - box.height / 2) / (box.height / 2 - 20);
    const far = Math.max(1, Math.hypot(x, y));
    hands.stick = { x: x / far, y: y / far };
    show(hands.stick.x, hands.stick.y);
  };
  const release = () => { hands.stick = null; show(0, 0); };
  node.addEventListener("pointerdown", (event) => {
    if (!allowed()) { refused(); return; }
    node.setPointerCapture(event.pointerId);
    move(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (!node.hasPointerCapture(event.pointerId)) return;
    // A finger that the page has let go of is lifted and put down anew.
    if (hands.stick) move(event);
    else show(0, 0);
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) node.addEventListener(name, release);
  return {
    release,
    /** The knob where the hands are, when they are elsewhere than on it. */
    follow({ steering, throttle }) { if (!hands.stick) show(-steering, throttle); },
  };
}
