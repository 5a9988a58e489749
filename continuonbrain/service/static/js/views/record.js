// Recording a lesson: what is shown, on and off.

import { ask, post } from "../api.js";
import { el, setText } from "../dom.js";

/** Record on and off with a label. changed(): an episode began or ended. */
export function recording(robot, changed) {
  const label = el("input", { id: "lesson", list: "suggestions", value: "drive", maxlength: "400", autocomplete: "off", required: true });
  const list = el("datalist", { id: "suggestions" });
  ask("/v1/instructions").then((told) => list.append(...told.suggestions.map((words) => el("option", { value: words })))).catch(() => {});
  const button = el("button", { type: "submit", class: "primary" }, "Record");
  const state = el("p", { class: "soft", role: "status" });
  let on = false;
  const submit = (event) => {
    event.preventDefault();
    robot.act(async () => {
      await post("/v1/recording", on ? { on: false } : { on: true, instruction: label.value.trim() });
      changed();
    });
  };
  return {
    node: el("form", { class: "stack", onsubmit: submit }, el("div", { class: "field" }, el("label", { for: "lesson" }, "What you show it"), el("div", { class: "joined" }, label, button)), list, state),
    paint() {
      const tick = robot.view.tick;
      on = Boolean(tick?.recording?.on);
      setText(button, on ? "Stop recording" : "Record");
      button.disabled = !tick;
      label.disabled = on;
      const words = !tick ? "No connection to the robot: nothing can be recorded." : on
        ? `Recording “${tick.instruction}”${tick.mode === "teleop" || tick.mode === "assisted" || tick.mode === "teach" ? "" : ". What the autopilot drives is kept, but teaches nothing: take the wheel under Drive"}.`
        : "Not recording.";
      setText(state, words);
    },
  };
}
