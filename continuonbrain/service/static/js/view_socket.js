// What the robot sees and does: frames and ticks from `/v1/view`, with a connection that heals by itself.

const RETRY_MS = [250, 500, 1000, 2000, 4000];
const QUIET_MS = 1200; // without a tick: what was heard last is not now
const SILENT_MS = 3000;

/** Frame age: the robot's clock against ours, by the quickest frame so far (their clocks need not agree). */
class Age {
  constructor() { this.offset = Infinity; }
  /** Milliseconds since exposure, beyond the quickest way there was; on one machine the true age. */
  of(exposedMs, nowMs) {
    const difference = nowMs - exposedMs;
    // Clocks that agree within two seconds are taken at their word.
    if (difference >= 0 && difference < 2000 && this.offset === Infinity) return difference;
    this.offset = Math.min(this.offset, difference);
    return difference - this.offset;
  }
}

export class ViewSocket extends EventTarget {
  constructor() {
    super();
    this.linked = false;
    this.tick = null;
    this.ages = [];
    this.shown = null;
    this.wanted = false;
    this.tries = 0;
  }

  start() {
    if (this.wanted) return;
    this.wanted = true;
    this.open();
    this.watch = setInterval(() => this.look(), 300);
  }

  stop() {
    this.wanted = false;
    clearInterval(this.watch);
    clearTimeout(this.retry);
    this.socket?.close();
    this.lose();
  }

  open() {
    this.count = 0;
    this.age = new Age();
    this.heard = performance.now();
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/view?fps=20`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onmessage = (event) => { if (socket === this.socket) this.take(event.data); };
    socket.onclose = () => { if (socket === this.socket) this.again(); };
  }

  /** Frames end when the robot's process hangs, without a close. */
  look() {
    const silent = performance.now() - this.heard;
    if (silent > QUIET_MS) this.lose();
    if (this.socket?.readyState === WebSocket.OPEN && silent > SILENT_MS) {
      const old = this.socket;
      this.again();
      old.close();
    }
  }

  again() {
    this.socket = null;
    this.lose();
    if (!this.wanted) return;
    const wait = RETRY_MS[Math.min(this.tries, RETRY_MS.length - 1)];
    this.tries += 1;
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.open(), wait);
  }

  lose() {
    this.tick = null;
    if (!this.linked) return;
    this.linked = false;
    this.dispatchEvent(new Event("link"));
  }

  /** A frame is on the screen, `age` ms after its exposure. The newest minute is kept. */
  shows(age) {
    this.shown = age;
    this.ages.push(age);
    if (this.ages.length > 1200) this.ages.shift();
  }

  take(data) {
    this.heard = performance.now();
    this.tries = 0;
    if (!this.linked) {
      this.linked = true;
      this.dispatchEvent(new Event("link"));
    }
    if (typeof data === "string") {
      const told = JSON.parse(data);
      if (told.type !== "tick") return;
      this.tick = told.mode === undefined ? null : told; // without a mode no control process is heard
      this.dispatchEvent(new Event("tick"));
      return;
    }
    const exposed = new DataView(data).getFloat64(0, true);
    this.count += 1;
    this.socket.send(JSON.stringify({ ack: this.count }));
    const age = this.age.of(exposed, Date.now());
    this.dispatchEvent(new CustomEvent("frame", { detail: { age, jpeg: new Blob([data.slice(8)], { type: "image/jpeg" }) } }));
  }
}
