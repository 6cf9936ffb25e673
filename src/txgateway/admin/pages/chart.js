// Small line charts over the last five minutes, drawn as SVG at the size they have on the page.

const SVG = "http://www.w3.org/2000/svg";
export const SPAN_S = 300;
const TOP = 6;
const BOTTOM = 18;
const LEFT = 44;
const RIGHT = 6;
/** Below this there is no room for a word in the middle. */
const NARROW = 220;
/** Samples further apart than this are not joined. */
const GAP_S = 7;

function make(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

/** The first of 2, 4, 10, 20, … that is not below: half of it is a whole number too, from 2 on. */
function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 10].map((factor) => factor * power).find((candidate) => candidate >= value * 0.999999);
}

function linear(values, floor) {
  const top = niceCeiling(Math.max(floor, ...values));
  return { ticks: [0, top / 2, top], at: (value) => value / top };
}

function logarithmic(values, floor) {
  const low = Math.floor(Math.log10(Math.max(floor, Math.min(...values))));
  const high = Math.max(low + 2, Math.ceil(Math.log10(Math.max(...values)) - 1e-9));
  const ticks = [];
  for (let power = low; power <= high; power += 1) ticks.push(10 ** power);
  return { ticks, at: (value) => Math.max(0, (Math.log10(value) - low) / (high - low)) };
}

/**
 * One chart.
 *
 * title: what its text alternative begins with. series: {key, name, look} each, drawn in this order.
 * format: writes a value. floor: the least that the axis reaches (its lower end, on a log scale).
 * label: writes a value of the axis. longest: what stands for Infinity.
 */
export class Chart {
  constructor(svg, { title, series, format, label = format, floor, log = false, longest = 30 }) {
    Object.assign(this, { svg, title, series, format, label, floor, log, longest });
    this.points = [];
    this.now = 0;
    this.grid = make("g", { class: "axis", "aria-hidden": "true" }, svg);
    this.lines = series.map(({ look }) => ({
      area: make("path", { class: `area ${look}` }, svg),
      line: make("path", { class: `line ${look}` }, svg),
    }));
    this.cross = make("g", { class: "cross", "aria-hidden": "true" }, svg);
    svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.redraw()).observe(svg);
  }

  /** points: {t, [key]: number | null}, oldest first; now: the right edge, in the same seconds. */
  draw(points, now) {
    this.points = points;
    this.now = now;
    this.redraw();
    this.svg.setAttribute("aria-label", this.describe());
  }

  describe() {
    const parts = [];
    for (const { key, name } of this.series) {
      const values = this.points.map((point) => point[key]).filter((value) => value !== null);
      if (!values.length) continue;
      const [low, high, last] = [Math.min(...values), Math.max(...values), values.at(-1)].map(this.format);
      parts.push(`${name} now ${last}, lowest ${low}, highest ${high}`);
    }
    return `${this.title}, last five minutes: ${parts.join("; ") || "no data"}`;
  }

  value(point, key) {
    return point[key] === Infinity ? this.longest : point[key];
  }

  redraw() {
    const { clientWidth: width, clientHeight: height } = this.svg;
    if (!width || !height) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const values = [];
    for (const point of this.points) {
      for (const { key } of this.series) if (point[key] !== null) values.push(this.value(point, key));
    }
    const scale = (this.log ? logarithmic : linear)(values.length ? values : [this.floor], this.floor);
    this.x = (t) => LEFT + (1 - (this.now - t) / SPAN_S) * (width - LEFT - RIGHT);
    this.y = (value) => height - BOTTOM - Math.min(1, scale.at(value)) * (height - TOP - BOTTOM);
    this.drawAxes(scale, width, height);
    this.series.forEach(({ key }, i) => {
      const runs = this.runs(key);
      const line = runs.map((run) => `M${run.map(([x, y]) => `${x},${y}`).join("L")}`).join("");
      const base = height - BOTTOM;
      const area = runs.map(
        (run) => `M${run[0][0]},${base}L${run.map(([x, y]) => `${x},${y}`).join("L")}L${run.at(-1)[0]},${base}Z`,
      );
      this.lines[i].line.setAttribute("d", line);
      this.lines[i].area.setAttribute("d", this.log ? "" : area.join(""));
    });
    this.point(this.pointedAt ?? null);
  }

  drawAxes(scale, width, height) {
    this.grid.replaceChildren();
    for (const tick of scale.ticks) {
      const y = Math.round(this.y(tick)) + 0.5;
      make("line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y }, this.grid);
      make("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, this.grid).textContent = this.label(tick);
    }
    for (const [ago, words, anchor] of [[SPAN_S, "−5 min", "start"], [SPAN_S / 2, "−2½", "middle"], [0, "now", "end"]]) {
      if (anchor === "middle" && width < NARROW) continue;
      const label = make("text", { x: this.x(this.now - ago), y: height - 4, "text-anchor": anchor }, this.grid);
      label.textContent = words;
    }
  }

  /** The pieces of a line: [[x, y], …] each, broken where there is no value. */
  runs(key) {
    const runs = [];
    let run = null;
    let last = -Infinity;
    for (const point of this.points) {
      const value = this.value(point, key);
      const isSeen = value !== null && point.t >= this.now - SPAN_S;
      if (!isSeen || point.t - last > GAP_S) run = null;
      if (isSeen) {
        if (!run) runs.push((run = []));
        run.push([this.x(point.t).toFixed(1), this.y(value).toFixed(1)]);
        last = point.t;
      }
    }
    return runs;
  }

  /** Show the values at this place; null for none. */
  point(x) {
    this.pointedAt = x;
    this.cross.replaceChildren();
    if (x === null || !this.points.length || !this.x) return;
    const { clientWidth: width, clientHeight: height } = this.svg;
    const distance = (point) => Math.abs(this.x(point.t) - x);
    const nearest = this.points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
    const at = this.x(nearest.t);
    if (at < LEFT) return;
    make("line", { x1: at, x2: at, y1: TOP, y2: height - BOTTOM }, this.cross);
    const isLeft = at > width / 2;
    const words = this.series.map(({ key, name }) => `${name} ${this.format(nearest[key])}`);
    words.unshift(`${Math.round(this.now - nearest.t)} s ago`);
    const attributes = { x: at + (isLeft ? -7 : 7), "text-anchor": isLeft ? "end" : "start" };
    const place = isLeft ? at - 7 : at + 7;
    const box = make("rect", { rx: 4, y: TOP - 4, height: words.length * 14 + 6 }, this.cross);
    let widest = 0;
    words.forEach((line, i) => {
      const text = make("text", { ...attributes, y: TOP + 9 + i * 14 }, this.cross);
      text.textContent = line;
      widest = Math.max(widest, text.getComputedTextLength());
    });
    box.setAttribute("x", isLeft ? place - widest - 5 : place - 5);
    box.setAttribute("width", widest + 10);
  }
}
