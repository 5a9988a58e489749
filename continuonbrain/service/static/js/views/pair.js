// Pairing: the code stands on the robot's console.

import { post } from "../api.js";
import { el, notice } from "../dom.js";

export function pairing(main, done) {
  const said = el("div", { role: "alert" });
  const code = el("input", { id: "code", inputmode: "numeric", autocomplete: "one-time-code", pattern: "[0-9]{6}", maxlength: "6", required: true, "aria-describedby": "code-help" });
  const go = el("button", { type: "submit", class: "primary" }, "Pair");
  const submit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    said.replaceChildren();
    try {
      await post("/v1/pair", { code: code.value });
      done();
    } catch (error) {
      said.replaceChildren(notice(error.message, error.remedy || "Read the code again where the robot was started; it changes with every start.", "bad"));
      code.select();
    }
    go.disabled = false;
  };
  main.replaceChildren(el("section", { class: "panel pair", "aria-labelledby": "pair-title" },
    el("h1", { id: "pair-title" }, "Pair with this robot"),
    el("p", { id: "code-help" }, "Type the six digits that the robot's console shows. They say that you may touch this robot."),
    el("form", { class: "stack", onsubmit: submit },
      el("div", { class: "field" }, el("label", { for: "code" }, "Pairing code"), code), said, go)));
  code.focus();
}
