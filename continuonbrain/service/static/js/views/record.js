// Recording a lesson: what is shown, on and off; and in one line what is recorded now, and why.

import { ask, post } from "../api.js";
import { el, setText } from "../dom.js";
import { recordedInWords } from "../words.js";

/** Record on and off with a label. changed(): an episode began or ended. drives: whether the other switch is shown. */
export function recording(robot, changed, { drives = false } = {}) {
  const label = el("input", { id: "lesson", list: "suggestions", value: "drive", maxlength: "200", autocomplete: "off", required: true });
  const list = el("datalist", { id: "suggestions" });
  ask("/v1/instructions").then((told) => list.append(...told.suggestions.map((words) => el("option", { value: words })))).catch(() => {});
  const button = el("button", { type: "submit", class: "primary" }, "Record");
  const state = el("p", { class: "soft", role: "status" });
  const others = el("input", { type: "checkbox", id: "drives", disabled: true });
  let on = false;
  const tell = (what) => robot.act(async () => {
    await post("/v1/recording", what);
    changed();
  });
  const submit = (event) => {
    event.preventDefault();
    tell(on ? { on: false } : { on: true, instruction: label.value.trim() });
  };
  others.addEventListener("change", () => tell({ on: others.checked, what: "drives" }));
  return {
    node: el("form", { class: "stack", onsubmit: submit },
      el("div", { class: "field" }, el("label", { for: "lesson" }, "What you show it"), el("div", { class: "joined" }, label, button)), list, state,
      drives && el("div", { class: "check" }, others, el("label", { for: "drives" }, "Record the autopilot's drives and my corrections, too"))),
    paint() {
      const tick = robot.view.tick;
      const told = tick?.recording;
      on = Boolean(told?.lessons);
      setText(button, on ? "Stop recording" : "Record");
      const barred = !told?.able || robot.driver() === "other";
      button.disabled = barred;
      label.disabled = on || barred;
      others.disabled = barred;
      if (told && document.activeElement !== others) others.checked = told.drives;
      setText(state, recordedInWords(tick, robot.view.linked, robot.who()));
    },
  };
}
