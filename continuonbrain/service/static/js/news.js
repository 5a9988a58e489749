// What changes while nobody asks: what drives, and that it was taken back. Asked for while the page is in sight.

import { ask } from "./api.js";
import { toast } from "./dom.js";
import { reasonOf } from "./words.js";

const PERIOD_MS = 4000;

/** Keep `robot.status` (of `/v1/status`, null before it) fresh; a "status" event of the view's each time. What a
 * probation took back meanwhile is said once. */
export function follow(robot) {
  let heard = null;
  let known = null;
  async function look() {
    if (document.hidden || !robot.view.linked) return;
    const status = await ask("/v1/status");
    robot.status = status;
    robot.view.dispatchEvent(new Event("status"));
    if (status.last_event === heard) return;
    const { entries } = await ask("/v1/history");
    heard = status.last_event;
    // By the history and not by what drives: what was promoted and taken back between two looks changed nothing else.
    // And by its order, as a robot's clock may go back.
    const told = entries.map(({ event, at_unix_s: at, from, to }) => [event, at, from, to].join(" "));
    const last = known;
    known = told.at(-1) ?? "";
    const since = last === null || (last && !told.includes(last)) ? entries.length : told.lastIndexOf(last) + 1;
    for (const { event, from, to, reason } of entries.slice(since))
      if (event === "revert") toast(`${from ? `Adapter ${from}` : "What drove"} was taken back on probation.`, `${reason ? `${reasonOf(reason)} ` : ""}Now ${to || "the base alone"} drives; Learn has the history.`, "warn");
  }
  const again = () => look().catch(() => {}).finally(() => setTimeout(again, PERIOD_MS));
  again();
}
