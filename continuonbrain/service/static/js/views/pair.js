// Pairing: the code stands on the robot's console, and in a file of its owner's.

import { post } from "../api.js";
import { el, notice } from "../dom.js";

export function pairing(main, done) {
  const said = el("div", { role: "alert" });
  const code = el("input", { id: "code", inputmode: "numeric", autocomplete: "one-time-code", pattern: "\\s*([0-9]\\s*){6}(([0-9]\\s*){6})?", maxlength: "20", required: true, "aria-describedby": "code-help" });
  const go = el("button", { type: "submit", class: "primary" }, "Pair");
  const submit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    said.replaceChildren();
    try {
      await post("/v1/pair", { code: code.value.replace(/\s/g, "") });
      done();
    } catch (error) {
      said.replaceChildren(notice(error.message, error.remedy, "bad"));
      code.select();
    }
    go.disabled = false;
  };
  main.replaceChildren(el("section", { class: "panel pair", "aria-labelledby": "pair-title" },
    el("h1", { id: "pair-title" }, "Pair with this robot"),
    el("div", { id: "code-help", class: "stack" },
      el("p", {}, "Type the digits of its pairing code. They say that you may touch this robot."),
      el("p", { class: "soft" }, "At the robot ", el("code", {}, "continuonbrain pair"), " prints it, with the same ", el("code", {}, "--root"), " as the robot’s. It stands as well in the terminal where ", el("code", {}, "continuonbrain run"), " or ", el("code", {}, "continuonbrain serve"), " was started, and in the file ", el("code", {}, "run/pairing_code"), " of that folder, which only the user who started it may read. Each code opens once; the next one stands there at once.")),
    el("form", { class: "stack", onsubmit: submit },
      el("div", { class: "field" }, el("label", { for: "code" }, "Pairing code"), code), said, go)));
  code.focus();
}
