// System: what runs, how punctual it is, how warm, how full; logs and the doctor.

import { ask } from "../api.js";
import { el, facts, notice, panel, table } from "../dom.js";
import { number, short } from "../words.js";

const LOGS = ["control", "policy", "sidecar", "service"];

export function open(main, robot) {
  const processes = el("div");
  const profile = el("div");
  const machine = el("div", { class: "stack" });
  const doctor = doctorPanel();
  const logs = logsPanel();
  main.append(el("h1", { class: "visually-hidden" }, "System"),
    el("div", { class: "columns" },
      el("div", { class: "stack" }, panel("Processes", processes), panel("Tick profile", profile), logs.node),
      el("div", { class: "stack" }, panel("Machine", machine), doctor)));

  for (const place of [processes, profile, machine]) place.append(el("p", { class: "soft" }, "Looking …"));
  async function look() {
    let told;
    try {
      told = await ask("/v1/system");
    } catch (error) {
      for (const place of [profile, machine]) place.replaceChildren(el("p", { class: "soft" }, "Not known."));
      processes.replaceChildren(notice(error.message, error.remedy, "bad"));
      return;
    }
    processes.replaceChildren(table("Processes of the brain", ["", "Process", "PID#", "Memory MiB#", "CPU#", "Restarts#"],
      (told.processes ?? []).map((p) => ({ tone: p.alive ? "good" : "bad", cells: [p.alive ? "alive" : "ended", p.name, String(p.pid ?? "–"), number(p.rss_mib, 0), percent(p.cpu), short(p.restarts)] }))));
    profile.replaceChildren(profileTable(told.profile ?? {}));
    const disk = told.disk ?? {};
    const battery = told.battery;
    machine.replaceChildren(facts([
      ...Object.entries(told.temperatures ?? {}).map(([name, celsius]) => [name.replaceAll("_", " "), celsius === null ? "not measured" : `${number(celsius, 1)} °C`]),
      ["Disk free", disk.free_mib === undefined ? null : `${gib(disk.free_mib)} of ${gib(disk.total_mib)}`],
      ["Battery", battery === null || battery === undefined ? "not measured" : typeof battery === "number" ? `${number(battery, 0)} %` : `${number(battery.percent, 0)} %${battery.charging ? ", charging" : ""}`],
      ["Missed ticks", robot.view.tick?.missed_ticks],
      ["Fault", robot.view.tick?.fault || null],
    ]));
  }
  look();
  const timer = setInterval(look, 2000);
  return () => { clearInterval(timer); logs.close(); };
}

const percent = (cpu) => (typeof cpu === "number" ? `${Math.round(cpu * 100)} %` : "–");
const gib = (mib) => (typeof mib === "number" ? `${(mib / 1024).toFixed(1)} GiB` : "–");

function profileTable(profile) {
  const rows = [];
  for (const [name, words] of [["lateness_us", "begins late by"], ["work_us", "whole tick"]]) if (profile[name]) rows.push([words, profile[name]]);
  for (const [stage, spread] of Object.entries(profile.stages_us ?? {})) rows.push([`– ${stage}`, spread]);
  if (!rows.length) return el("p", { class: "soft" }, "No ticks were measured yet: the control process does not run, or has just begun.");
  const ms = (us) => (typeof us === "number" ? (us / 1000).toFixed(2) : "–");
  return table("Milliseconds of a tick of 50 ms", ["Stage", "Median#", "99 %#", "99.9 %#", "Longest#"], rows.map(([words, s]) => [words, ms(s.p50), ms(s.p99), ms(s["p99.9"]), ms(s.max)]));
}

function doctorPanel() {
  const found = el("div", { class: "stack", role: "status" });
  const run = el("button", { type: "button" }, "Run the doctor");
  run.addEventListener("click", async () => {
    run.disabled = true;
    found.replaceChildren(el("p", { class: "soft" }, "It looks; this may take a while …"));
    try {
      const told = await ask("/v1/doctor");
      const checks = told.checks ?? [];
      const findings = told.findings ?? [];
      found.replaceChildren(
        checks.length ? table("Checks", ["", "Check", "Found"], checks.map((c) => ({ tone: c.ok ? "good" : c.needed === false ? "warn" : "bad", cells: [c.ok ? "ok" : c.needed === false ? "none" : "NO", c.name, [c.value, c.reason ?? c.detail, c.remedy].filter((v) => v !== null && v !== undefined && v !== "").join(" · ")] }))) : "",
        ...findings.map((f) => notice(f.problem, f.remedy, f.severity === "error" ? "bad" : "warn")),
        !checks.length && !findings.length ? notice("The doctor found nothing wrong.", "", "good") : "");
    } catch (error) {
      found.replaceChildren(notice(error.message, error.remedy, "bad"));
    }
    run.disabled = false;
  });
  return panel("Doctor", el("p", { class: "soft" }, "Looks at every gate, file and dependency, and says what is missing."), el("div", { class: "row" }, run), found);
}

function logsPanel() {
  const text = el("pre", { class: "log", tabindex: "0", role: "region", "aria-label": "Log" });
  const which = el("select", { id: "log" }, LOGS.map((name) => el("option", { value: name }, name)));
  const look = async () => {
    try {
      const told = await ask(`/v1/logs/${which.value}?lines=200`);
      const lines = Array.isArray(told) ? told : told.lines ?? [];
      const words = lines.length ? lines.join("\n") : "Nothing was logged yet.";
      if (text.textContent === words) return;
      const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
      text.textContent = words;
      if (atEnd) text.scrollTop = text.scrollHeight;
    } catch (error) {
      text.textContent = [error.message, error.remedy].filter(Boolean).join("\n");
    }
  };
  which.addEventListener("change", () => { text.textContent = ""; look(); });
  look();
  const timer = setInterval(look, 4000);
  return { node: panel("Logs", el("div", { class: "field" }, el("label", { for: "log" }, "Of"), which), text), close() { clearInterval(timer); } };
}
