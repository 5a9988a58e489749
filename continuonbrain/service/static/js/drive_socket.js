// The wheel: one message every 50 ms while this page holds it. Whatever goes wrong here, the robot stops by itself
// when messages end; this file only makes that happen at once instead of 200 ms later.

import { post } from "./api.js";

const PERIOD_MS = 50;
const REMEMBERED_MS = 4000;

/** read(): `{steering, throttle, active}` of whatever the person holds now. */
export class Wheel extends EventTarget {
  constructor(read) {
    super();
    this.read = read;
    this.held = false;
    this.assist = false;
    this.roundTrip = null;
    this.lost = "";
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.give("the page was hidden"); });
    addEventListener("pagehide", () => this.give("the page was left"));
    addEventListener("blur", () => this.letGo());
  }

  /** Take the wheel. Throws `Problem` (409 when another person drives). */
  async take() {
    if (this.held) return;
    await post("/v1/driver", { want: true });
    this.reason = "";
    await new Promise((resolve, reject) => {
      const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/drive`);
      this.socket = socket;
      this.echo = {};
      socket.onopen = () => {
        this.held = true;
        this.lost = "";
        this.timer = setInterval(() => this.send(), PERIOD_MS);
        this.tell();
        resolve();
      };
      // What an earlier socket still has to say, be it that it is closed, is nothing of this one.
      socket.onmessage = (event) => { if (socket === this.socket) this.hear(JSON.parse(event.data)); };
      socket.onclose = () => {
        if (socket !== this.socket) {
          reject(new Error("The wheel was asked for once more."));
          return;
        }
        if (!this.held) reject(new Error("The robot refused the wheel."));
        this.end(this.reason || "the connection was lost");
      };
    });
  }

  /** Give the wheel back; `why` is shown. */
  give(why = "") {
    if (!this.held) return;
    this.letGo();
    const socket = this.socket;
    this.end(why);
    socket.close();
  }

  /** Hands off: the car stops (or the autopilot goes on, when assisted), the wheel stays ours. */
  letGo() {
    this.dispatchEvent(new Event("letgo"));
    this.write({ steering: 0, throttle: 0, active: false });
  }

  end(why) {
    if (!this.held) return;
    this.held = false;
    this.lost = why;
    this.roundTrip = null;
    clearInterval(this.timer);
    this.tell();
  }

  send() {
    this.write(document.hasFocus() && !document.hidden ? this.read() : { steering: 0, throttle: 0, active: false });
  }

  write({ steering, throttle, active }) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    // A connection that takes nothing must not be filled with old commands: they would drive the car later.
    if (this.socket.bufferedAmount > 2048) return;
    this.socket.send(JSON.stringify({ t: performance.now(), steering, throttle, active, assist: this.assist, ...this.echo }));
  }

  hear(told) {
    if (told.type === "ack") {
      // The robot's clock goes back with ours of now: by it the robot knows how long messages are under way.
      const heard = performance.now();
      this.echo = { clock: told.clock, heard };
      this.roundTrip = heard - told.t;
      return;
    }
    if (told.type !== "lost") return;
    // The robot let go for a moment, or is about to close: it says which by closing.
    this.reason = told.reason;
    // A key that was held while the line was away is to be pressed anew.
    if (told.hold_anew) this.letGo();
    this.tell();
    clearTimeout(this.forget);
    this.forget = setTimeout(() => { this.reason = ""; this.tell(); }, REMEMBERED_MS);
  }

  tell() { this.dispatchEvent(new Event("change")); }
}
