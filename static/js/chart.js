// Line charts: uPlot in place of the drawing that the server made. The numbers stand in a JSON
// script beside it; colours are the page's own, so a chart follows the theme.

const HEIGHT = 220;
const SYNC = "charts"; // One crosshair over all charts of a page.
let library;

/** Draws the chart of a `<figure class="chart" data-chart>`; again where it was drawn. */
export async function draw(figure) {
  if (figure.chart) return;
  figure.chart = "loading";
  try {
    await load(figure.dataset.library);
  } catch {
    figure.chart = null; // The server's drawing stays.
    return;
  }
  const data = JSON.parse(document.getElementById(figure.dataset.source).textContent);
  const plot = figure.querySelector(".chart-plot");
  figure.chart = make(figure, plot, data);
  new ResizeObserver(() => {
    if (!figure.isConnected || !plot.clientWidth) return;
    if (figure.chart.width !== plot.clientWidth) figure.chart.setSize({ width: plot.clientWidth, height: HEIGHT });
  }).observe(plot);

  const restyle = () => {
    if (!figure.isConnected) return;
    figure.chart.destroy();
    figure.chart = make(figure, plot, data);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  document.addEventListener("themechange", restyle);
}

function load(address) {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.addEventListener("load", resolve);
    script.addEventListener("error", reject);
    document.head.append(script);
  });
  return library;
}

function make(figure, plot, data) {
  const uPlot = window.uPlot;
  const style = getComputedStyle(figure);
  // A token is light-dark(…), which only a used colour resolves.
  const colour = (name) => resolve(figure, name);
  const format = formatter(data.unit);
  const axis = {
    stroke: colour("--ink-3"),
    grid: { stroke: colour("--border"), width: 1 },
    ticks: { stroke: colour("--border"), width: 1, size: 4 },
    font: `12px ${style.fontFamily}`,
  };
  const values = [...figure.querySelectorAll(".chart-legend [data-value]")];
  const chart = new uPlot({
    width: plot.clientWidth || 600,
    height: HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    legend: { show: false },
    cursor: { sync: { key: SYNC, setSeries: false }, points: { size: 7 }, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => range(low, high) } },
    axes: [
      { ...axis, space: 80, values: timeLabels(uPlot) },
      { ...axis, size: widest, values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      {},
      ...data.series.map((one, index) => ({
        label: one.label,
        stroke: colour(`--series-${index + 1}`),
        width: 2,
        spanGaps: false,
        points: {
          show: data.times.length < 2 ? true : undefined,
          size: 5,
          width: 1,
          fill: colour(`--series-${index + 1}`),
          filter: (_, __, areAllShown) => (areAllShown ? null : lone(one.values)),
        },
      })),
    ],
    hooks: {
      draw: [(self) => drawMarkers(self, data.markers, colour("--ink-3"), axis.font)],
      setCursor: [(self) => showValues(self, values, data, format)],
    },
  }, [data.times, ...data.series.map((one) => one.values)], (self, start) => {
    plot.replaceChildren(self.root);
    start();
  });
  return chart;
}

/** Zero belongs to every chart of ours, and the top has some air. */
function range(low, high) {
  if (low == null) return [0, 1];
  const top = Math.max(high, 0), bottom = Math.min(low, 0);
  return top === bottom ? [0, 1] : [bottom * 1.08, top * 1.08];
}

/** The places of values between two gaps, which a line alone would not show; null for none. */
function lone(values) {
  const isGap = (place) => values[place] == null;
  const found = values.flatMap((_, place) => (
    !isGap(place) && isGap(place - 1) && isGap(place + 1) ? [place] : []
  ));
  return found.length ? found : null;
}

function timeLabels(uPlot) {
  const day = uPlot.fmtDate("{D} {MMM}"), minute = uPlot.fmtDate("{HH}:{mm}");
  return (_, ticks, __, ___, step) => {
    let before = "";
    return ticks.map((seconds) => {
      const moment = uPlot.tzDate(new Date(seconds * 1000), "UTC");
      const date = day(moment);
      if (step >= 86_400) return date;
      const text = date === before ? minute(moment) : `${minute(moment)}\n${date}`;
      before = date;
      return text;
    });
  };
}

// As wide as its longest label: a price of $0.000015 has many digits.
function widest(_, labels) {
  const lengths = (labels ?? []).map((label) => String(label ?? "").length);
  return Math.max(52, 14 + 7 * Math.max(0, ...lengths));
}

function formatter(unit) {
  if (unit === "bytes") {
    return (value) => {
      if (value == null) return "—";
      const power = Math.min(4, Math.floor(Math.log2(Math.max(Math.abs(value), 1)) / 10));
      return `${round(value / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
    };
  }
  return (value) => (value == null ? "—" : round(value));
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const plain = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
function round(value) {
  return Math.abs(value) >= 10_000 ? compact.format(value) : plain.format(value);
}

/** The values under the crosshair stand in the legend; without it, the last ones do. */
function showValues(self, places, data, format) {
  const index = self.cursor.idx;
  for (const [row, place] of places.entries()) {
    place.textContent = index == null ? "" : format(data.series[row].values[index]);
  }
}

function drawMarkers(self, markers, stroke, font) {
  const ratio = devicePixelRatio, { ctx, bbox } = self;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = stroke;
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 4 * ratio]);
  ctx.font = font.replace("12px", `${11 * ratio}px`);
  // Where each line of labels is taken: those of one moment stand below each other.
  const lines = [];
  for (const { time, label } of markers) {
    const x = Math.round(self.valToPos(time, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const wide = ctx.measureText(label).width + 6 * ratio;
    ctx.textAlign = x + wide > bbox.left + bbox.width ? "right" : "left";
    const [from, to] = ctx.textAlign === "right" ? [x - wide, x] : [x, x + wide];
    let line = 0;
    while (lines[line]?.some((one) => from < one.to && one.from < to)) line += 1;
    (lines[line] ??= []).push({ from, to });
    ctx.fillText(label, x + (ctx.textAlign === "right" ? -4 : 4) * ratio, bbox.top + (10 + 13 * line) * ratio);
  }
  ctx.restore();
}

function resolve(element, name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  element.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
