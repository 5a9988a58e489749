// Elements from code: no inline script or style, and text is never taken for markup.

/** An element. Attributes: `class`, `data-*`, `aria-*`, booleans, and `onclick`-like functions become listeners. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Change text only where it differs: a screen reader repeats what is written anew. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A panel with a heading. */
export function panel(title, ...children) {
  const id = `h-${title.toLowerCase().replace(/\W+/g, "-")}`;
  return el("section", { class: "panel", "aria-labelledby": id }, el("header", {}, el("h2", { id }, title)), children);
}

/** A notice in words, with what to do next. */
export function notice(words, remedy = "", tone = "") {
  return el("div", { class: "notice", "data-tone": tone }, el("p", {}, words), remedy && el("p", { class: "remedy" }, remedy));
}

/** Terms and values. */
export function facts(pairs) {
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, kept.flatMap(([term, value]) => [el("dt", {}, term), el("dd", { class: "figure" }, String(value))]));
}

/** A table. rows: arrays of cells, or {tone, cells}; a cell is text, a node, or a number (right-aligned). */
export function table(caption, heads, rows) {
  const numeric = heads.map((head) => head.endsWith("#"));
  const names = heads.map((head) => head.replace(/#$/, ""));
  const body = rows.map((row) => {
    const { tone, cells } = Array.isArray(row) ? { cells: row } : row;
    return el("tr", { "data-tone": tone }, cells.map((cell, i) => el("td", { class: numeric[i] && "num" }, cell ?? "")));
  });
  const head = el("tr", {}, names.map((name, i) => el("th", { scope: "col", class: numeric[i] && "num" }, name || el("span", { class: "visually-hidden" }, "state"))));
  const wrap = el("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": caption });
  wrap.append(el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, body)));
  return wrap;
}

/** Ask before what cannot be undone. Resolves to true only when the person says so. */
export function confirmed(question, detail, yes, { danger = false } = {}) {
  return new Promise((resolve) => {
    const dialog = el("dialog", { "aria-label": question });
    const answer = (said) => { dialog.close(); dialog.remove(); resolve(said); };
    const no = el("button", { type: "button", onclick: () => answer(false), autofocus: true }, "Cancel");
    const go = el("button", { type: "button", class: danger ? "danger" : "primary", onclick: () => answer(true) }, yes);
    dialog.append(el("form", { method: "dialog" }, el("h2", {}, question), el("p", {}, detail), el("div", { class: "row" }, no, go)));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); answer(false); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** What went wrong, in words, until it is closed or its time is over. It lies over the view, and lets clicks through. */
export function toast(words, remedy = "", tone = "bad") {
  const host = document.getElementById("toasts");
  const said = `${words[0]?.toUpperCase() ?? ""}${words.slice(1)}`;
  const note = notice(said, remedy, tone);
  // What is said again is said once: it stands there for as long as if it were new.
  note.dataset.said = `${said} ${remedy}`;
  for (const before of [...host.children]) if (before.dataset.said === note.dataset.said) before.remove();
  const body = el("div", {}, ...note.childNodes);
  note.replaceChildren(body, el("button", { type: "button", class: "small", onclick: () => note.remove() }, "Close"));
  while (host.childElementCount > 2) host.firstElementChild.remove();
  host.append(note);
  setTimeout(() => note.remove(), tone === "bad" || tone === "warn" ? 12000 : 4000);
}
