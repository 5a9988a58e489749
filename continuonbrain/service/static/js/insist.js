// A command that is said until it is heard: the stop, over a line that comes and goes.

import { openSession, post } from "./api.js";

const AGAIN_MS = 300;
const ANSWER_MS = 2000;

export class Insisting {
  /** path: what is posted. changed(): called when it begins and ends. */
  constructor(path, changed) {
    this.path = path;
    this.changed = changed;
    this.on = false;
    this.turn = 0;
  }

  /** Say it until it is heard. missed(error): called once, when it was not heard at first. */
  async begin(missed) {
    this.turn += 1;
    if (this.on) return;
    this.on = true;
    this.changed();
    for (let first = true; this.on; first = false) {
      try {
        await post(this.path, {}, AbortSignal.timeout(ANSWER_MS));
        break;
      } catch (error) {
        if (first) missed(error);
        // A service that began anew may want another token.
        if (error.status === 401 || error.status === 403) await openSession().catch(() => {});
        await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });
      }
    }
    this.on = false;
    this.changed();
  }

  /** A person wanted something else, and it was heard. turn: as it was then; a stop that was asked for later goes on. */
  end(turn) {
    if (turn === this.turn) this.on = false;
  }
}
