// Plots by uPlot (vendored), loaded when the first one is drawn.

let loading = null;

function library() {
  loading ??= new Promise((resolve, reject) => {
    const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/static/vendor/uplot/uPlot.min.css" });
    const script = Object.assign(document.createElement("script"), { src: "/static/vendor/uplot/uPlot.iife.min.js" });
    script.onload = () => resolve(globalThis.uPlot);
    script.onerror = () => { loading = null; reject(new Error("The plotting library could not be loaded.")); };
    document.head.append(style, script);
  });
  return loading;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A plot in `host`. lines: [{label, token, values}] over `x`; marks: x positions that are shaded (a guard stepped in).
 * onCursor(index): a person points at a step. Returns {set(x, lines), point(index), close()}.
 */
export async function plot(host, { title, x, lines, xLabel = "s", height = 130, marks = [], range = null, onCursor = null, sync = null, legend = true }) {
  const uPlot = await library();
  let chart = null;
  let data = [x, ...lines.map((line) => line.values)];
  const make = () => {
    chart?.destroy();
    const soft = colour("--soft");
    const axis = { stroke: soft, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    chart = new uPlot({
      width: Math.max(200, host.clientWidth), height,
      padding: [8, 8, 0, 0],
      legend: { show: legend, live: true },
      cursor: { sync: sync ? { key: sync } : undefined, drag: { x: false, y: false }, y: false },
      scales: { x: { time: false }, y: range ? { range } : {} },
      axes: [{ ...axis, size: 28 }, { ...axis, size: 44 }],
      series: [{ label: xLabel, value: (_u, v) => (v === null ? "–" : v.toFixed(2)) },
        ...lines.map((line) => ({ label: line.label, stroke: colour(line.token), width: 1.6, dash: line.dash, points: { show: false }, value: (_u, v) => (v === null ? "–" : v.toFixed(3)) }))],
      hooks: {
        drawClear: [(u) => {
          u.ctx.fillStyle = colour("--bad-soft");
          for (const at of marks) u.ctx.fillRect(u.valToPos(at, "x", true) - 1, u.bbox.top, 3, u.bbox.height);
        }],
        setCursor: [(u) => { if (onCursor && u.cursor.idx !== null && u.cursor.event) onCursor(u.cursor.idx); }],
      },
    }, data, host);
    host.querySelector("canvas").setAttribute("aria-hidden", "true");
  };
  host.setAttribute("role", "img");
  host.setAttribute("aria-label", title);
  make();
  let width = host.clientWidth;
  const sized = new ResizeObserver(() => {
    if (Math.abs(host.clientWidth - width) < 2) return;
    width = host.clientWidth;
    chart.setSize({ width: Math.max(200, width), height });
  });
  sized.observe(host);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", make);
  return {
    set(newX, values) { data = [newX, ...values]; chart.setData(data); },
    point(index) {
      if (data[0][index] === undefined) return;
      chart.setCursor({ left: chart.valToPos(data[0][index], "x"), top: 10 }, false);
      chart.setLegend({ idx: index }, false);
    },
    close() { sized.disconnect(); scheme.removeEventListener("change", make); chart.destroy(); },
  };
}
