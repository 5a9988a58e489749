// Talk: words from the model that drives, and its last decision from what was recorded.

import { ask, problemOf, session } from "../api.js";
import { el, notice, setText } from "../dom.js";

const HINT = "Enter asks, Shift+Enter begins a line.";
const said = [];

export function open(main) {
  const list = el("ol", { class: "said", "aria-label": "Conversation", tabindex: "0" });
  const live = el("p", { class: "visually-hidden", role: "status" });
  const box = el("textarea", { id: "say", rows: "2", maxlength: "4000", "aria-describedby": "say-help" });
  const send = el("button", { type: "submit", class: "primary" }, "Ask");
  const halt = el("button", { type: "button", hidden: true }, "End the answer");
  const hint = el("span", { class: "soft hint", id: "say-help", role: "status" }, HINT);
  const explain = el("button", { type: "button" }, "Explain the last decision");
  const greeting = el("li", {}, "Ask what it sees, does or has learned. Nothing leaves this robot.");
  let asking = null;
  let silent = false; // its base has no words
  const add = (by, text, mine = false) => {
    greeting.remove();
    const words = el("span", {}, text);
    const item = el("li", { class: mine ? "mine" : "" }, el("span", { class: "by" }, by), words);
    list.append(item);
    item.scrollIntoView({ block: "nearest" });
    return words;
  };
  list.append(greeting);
  ask("/v1/status").then(({ engines }) => {
    if (!engines || engines.words !== null) return;
    greeting.textContent = "This base drives and has no words: a Gemma 3n folder as base would have. It can still explain its last decision.";
    silent = box.disabled = send.disabled = true;
    setText(hint, "Nothing can be asked: this base has no words.");
  }).catch(() => {});
  for (const { role, content } of said) add(role === "user" ? "You" : "The model", content, role === "user");

  const talk = async () => {
    const text = box.value.trim();
    if (asking || silent) return;
    hint.dataset.tone = text ? "" : "warn";
    setText(hint, text ? HINT : "Write a question first, or have the last decision explained.");
    if (!text) { box.focus(); return; }
    box.value = "";
    said.push({ role: "user", content: text });
    add("You", text, true);
    const answer = add("The model", "…");
    asking = new AbortController();
    send.disabled = true;
    halt.hidden = false;
    let whole = "";
    try {
      const note = await stream(said, asking.signal, (piece) => { whole += piece; answer.textContent = whole; list.scrollTop = list.scrollHeight; });
      setText(live, whole);
      if (note) answer.after(notice(note));
    } catch (error) {
      if (error.name === "AbortError") answer.textContent = `${whole} (ended)`;
      else answer.replaceWith(notice(error.message, error.remedy, "bad"));
    }
    if (whole) said.push({ role: "assistant", content: whole });
    else said.pop(); // what was not answered is not asked again with the next question
    asking = null;
    send.disabled = false;
    halt.hidden = true;
  };
  halt.addEventListener("click", () => asking?.abort());
  explain.addEventListener("click", async () => {
    add("You", "Explain the last decision.", true);
    try {
      const told = await ask("/v1/explain");
      add("From what was recorded", told.text);
      setText(live, told.text);
    } catch (error) {
      add("From what was recorded", error.message);
    }
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); talk(); }
  });
  const submit = (event) => { event.preventDefault(); talk(); };
  main.append(el("h1", { class: "visually-hidden" }, "Talk"), el("section", { class: "panel talk", "aria-label": "Talk" }, list, live,
    el("form", { class: "stack", onsubmit: submit }, el("div", { class: "field" }, el("label", { for: "say" }, "Say"), box),
      el("div", { class: "row spread" }, hint, el("div", { class: "row" }, explain, halt, send)))));
  return () => asking?.abort();
}

/** Server-sent events of `/v1/chat`; told(piece) for each. Returns the answer's note. */
async function stream(messages, signal, told) {
  const answer = await fetch("/v1/chat", {
    method: "POST", signal, credentials: "same-origin",
    headers: { "content-type": "application/json", accept: "text/event-stream", "X-CSRF": session.csrf },
    body: JSON.stringify({ messages: messages.slice(-63) }),
  });
  if (!answer.ok) throw await problemOf(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The answer broke off. Ask again.");
    rest += value.replaceAll("\r\n", "\n");
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const lines = event.split("\n");
      const kind = lines.find((line) => line.startsWith("event:"))?.slice(6).trim();
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (!data) continue;
      const parsed = JSON.parse(data);
      if (kind === "piece") told(parsed.text);
      if (kind === "done") return parsed.note;
    }
  }
}
