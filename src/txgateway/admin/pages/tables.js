// The tables: rows are made once per name and then only their texts change. Names arrive as text and stay text.

import { between, count, grew, grewByName, latency, percent, rate, sum } from "./numbers.js";

/** Rows shown at most; the filter finds the others. */
export const MOST = 50;
/** The order of rows that compete by their numbers is settled anew this often, so that they can be read. */
const RESORT_MS = 5000;

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Put these children, and no others, into a parent, moving as few as possible. */
function arrange(parent, children) {
  children.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
}

/** A row: a header cell with a name and a smaller line, then as many cells as `looks` has classes. */
function makeRow(looks) {
  const row = element("tr");
  const head = element("th");
  head.scope = "row";
  const name = element("span", "name");
  const hint = element("span", "hint");
  head.append(name, hint);
  const cells = looks.map((look) => element("td", look));
  row.append(head, ...cells);
  return { row, name, hint, cells };
}

function fill({ name, hint, cells }, label, smaller, texts) {
  say(name, label);
  say(hint, smaller);
  hint.hidden = !smaller;
  texts.forEach((text, i) => say(cells[i], text));
}

function badge(cell, word, look) {
  let mark = cell.firstElementChild;
  if (!mark) cell.append((mark = element("span")));
  mark.className = `badge ${look}`;
  say(mark, word);
}

const matches = (wanted, ...texts) => !wanted || texts.some((text) => text.toLowerCase().includes(wanted));

class Filtered {
  constructor(id) {
    this.body = document.getElementById(id);
    this.counter = document.getElementById(`${id}-count`);
    this.filter = document.getElementById(`${id}-filter`);
    this.rows = new Map();
    this.filter.addEventListener("input", () => this.settle());
  }

  get wanted() {
    return this.filter.value.trim().toLowerCase();
  }

  row(key, looks) {
    let row = this.rows.get(key);
    if (!row) this.rows.set(key, (row = makeRow(looks)));
    return row;
  }

  /** Forget the rows of what is not shown: their number stays bounded. */
  keepOnly(keys) {
    for (const key of this.rows.keys()) if (!keys.has(key)) this.rows.delete(key);
  }

  count(shown, found, all, one, many) {
    const total = `${count(all)} ${all === 1 ? one : many}`;
    say(this.counter, shown === all ? total : `${count(shown)} of ${found === all ? total : `${count(found)} found, ${total}`}`);
  }
}

const ROUTE_CELLS = ["n", "n", "n", "n", "n", "n"];

export class Routes extends Filtered {
  constructor() {
    super("routes");
    this.key = "rate";
    this.isDescending = true;
    this.order = [];
    this.orderedAt = -Infinity;
    this.items = [];
    this.headings = [...document.querySelectorAll("#routes-table th[data-key]")];
    for (const heading of this.headings) {
      heading.firstElementChild.addEventListener("click", () => this.sortBy(heading.dataset.key));
    }
  }

  sortBy(key) {
    this.isDescending = this.key === key ? !this.isDescending : key !== "name";
    this.key = key;
    for (const heading of this.headings) {
      if (heading.dataset.key === key) heading.setAttribute("aria-sort", this.isDescending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    this.settle();
  }

  update(status, earlier, seconds) {
    const before = new Map(earlier?.routes.map((route) => [route.name, route.activity]));
    this.longest = status.bounds_s.at(-1);
    this.items = status.routes.map((route) => ({
      route,
      name: route.name,
      inFlight: route.in_flight,
      before: before.get(route.name) ?? route.activity,
      seconds: seconds || 1,
      bounds: status.bounds_s,
    }));
    for (const item of this.items) {
      item.rate = grew(item.before.requests, item.route.activity.requests) / item.seconds;
    }
    if (performance.now() - this.orderedAt > RESORT_MS) this.settle();
    else this.show();
    if (!earlier) this.orderedAt = -Infinity; // there were no rates to go by
  }

  work(item) {
    item.work ??= between(item.before, item.route.activity, item.seconds, item.bounds);
    return item.work;
  }

  value(item) {
    if (this.key === "p50" || this.key === "p99" || this.key === "share") return this.work(item)[this.key] ?? -1;
    if (this.key === "errors") return this.work(item).serverErrors;
    return item[this.key];
  }

  settle() {
    const wanted = this.wanted;
    const found = this.items.filter(({ name, route }) => matches(wanted, name, route.path, ...route.hosts, ...route.backends));
    const sign = this.isDescending ? -1 : 1;
    const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
    if (this.key === "name") found.sort((a, b) => sign * byName(a, b));
    else found.sort((a, b) => sign * (this.value(a) - this.value(b)) || byName(a, b));
    this.found = found.length;
    this.order = found.slice(0, MOST).map(({ name }) => name);
    this.orderedAt = performance.now();
    this.show();
  }

  show() {
    const byName = new Map(this.items.map((item) => [item.name, item]));
    const shown = this.order.filter((name) => byName.has(name));
    const rows = shown.map((name) => {
      const item = byName.get(name);
      const work = this.work(item);
      const row = this.row(name, ROUTE_CELLS);
      fill(row, name, describe(item.route), [
        rate(work.rate),
        latency(work.p50, this.longest),
        latency(work.p99, this.longest),
        rate(work.serverErrors),
        percent(work.share),
        count(item.inFlight),
      ]);
      row.row.classList.toggle("bad", work.serverErrors > 0);
      return row.row;
    });
    arrange(this.body, rows);
    this.keepOnly(new Set(shown));
    this.count(shown.length, this.found ?? 0, this.items.length, "route", "routes");
  }
}

function describe({ methods, hosts, path, backends }) {
  const where = `${hosts.join(", ")}${path}`;
  return `${methods.length ? `${methods.join(", ")} ` : ""}${where}${backends.length ? ` → ${backends.join(", ")}` : ""}`;
}

const HEALTH = { healthy: "good", unhealthy: "bad", unknown: "idle" };
const HEALTH_WORD = { unknown: "not checked" };
const BREAKER = { closed: "good", "half-open": "warn", open: "bad" };
const TARGET_CELLS = ["", "", "n", "n", "n", "n", "n", "n"];

const isSick = (target) => target.health === "unhealthy" || target.breaker !== "closed";
const failed = (outcomes) => (outcomes.error ?? 0) + (outcomes.timeout ?? 0);

export class Backends extends Filtered {
  constructor() {
    super("backends");
    this.items = [];
    this.before = new Map();
    this.groups = new Map();
    this.seconds = 1;
  }

  update(status, earlier, seconds) {
    this.items = status.backends;
    this.seconds = seconds || 1;
    this.before = new Map();
    for (const backend of earlier?.backends ?? []) {
      for (const target of backend.targets) this.before.set(`${backend.name}\n${target.target}`, target.outcomes);
    }
    this.settle();
  }

  settle() {
    const wanted = this.wanted;
    const found = this.items
      .map((backend) => ({ backend, sick: backend.targets.filter(isSick).length }))
      .filter(({ backend }) => matches(wanted, backend.name, ...backend.targets.flatMap(({ target, address }) => [target, address])))
      .sort((a, b) => Boolean(b.sick) - Boolean(a.sick));
    const keys = new Set();
    const rows = [];
    let shown = 0;
    let left = 2 * MOST;
    for (const { backend, sick } of found.slice(0, MOST)) {
      if (left <= 0) break;
      shown += 1;
      rows.push(this.group(backend, sick, keys));
      let label = null;
      const targets = [...backend.targets].sort((a, b) => isSick(b) - isSick(a)).slice(0, left);
      for (const target of targets) {
        rows.push(this.target(backend, target, target.target === label, keys));
        label = target.target;
      }
      left -= targets.length;
    }
    arrange(this.body, rows);
    this.keepOnly(keys);
    this.count(shown, found.length, this.items.length, "backend", "backends");
  }

  group(backend, sick, keys) {
    const key = `${backend.name}\n`;
    keys.add(key);
    let made = this.rows.get(key);
    if (!made) {
      const row = element("tr", "group");
      const head = element("th");
      head.scope = "colgroup";
      head.colSpan = TARGET_CELLS.length + 1;
      const inner = element("div", "stick");
      const [name, state, hint] = [element("span", "name"), element("span"), element("span", "hint")];
      inner.append(name, state, hint);
      head.append(inner);
      row.append(head);
      this.rows.set(key, (made = { row, name, state, hint }));
    }
    const all = backend.targets.length;
    say(made.name, backend.name);
    made.state.className = `badge ${sick ? (sick === all ? "bad" : "warn") : "good"}`;
    say(made.state, sick ? `${count(all - sick)} of ${count(all)} usable` : `all ${count(all)} usable`);
    say(made.hint, backend.load_balancer.replaceAll("_", " "));
    return made.row;
  }

  target(backend, target, isSameName, keys) {
    const key = `${backend.name}\n${target.target}\n${target.address}`;
    keys.add(key);
    const row = this.row(key, TARGET_CELLS);
    const before = this.before.get(`${backend.name}\n${target.target}`) ?? target.outcomes;
    const grown = grewByName(before, target.outcomes);
    const hints = [];
    if (target.address !== target.target) hints.push(target.address);
    if (target.weight !== 1) hints.push(`weight ${target.weight}`);
    fill(row, target.target, hints.join(", "), []);
    badge(row.cells[0], HEALTH_WORD[target.health] ?? target.health, HEALTH[target.health] ?? "idle");
    badge(row.cells[1], target.breaker, BREAKER[target.breaker] ?? "idle");
    // Attempts are counted by name: of the addresses of one name, the first shows those of all.
    const attempts = isSameName ? "as above" : rate(sum(Object.values(grown)) / this.seconds);
    say(row.cells[2], attempts);
    say(row.cells[3], isSameName ? "as above" : rate(failed(grown) / this.seconds));
    [target.in_flight, target.active, target.idle, target.pending].forEach((number, i) => say(row.cells[4 + i], count(number)));
    row.row.classList.toggle("bad", isSick(target));
    return row.row;
  }
}

export class Reasons {
  constructor() {
    this.body = document.getElementById("reasons");
    this.none = element("tr", "quiet");
    const cell = element("td", "", "None in five minutes");
    cell.colSpan = 3;
    this.none.append(cell);
    this.rows = new Map();
  }

  /** now, oldest: what each reason's counter grew by lately, and in all of the last minutes. */
  update(now, oldest, seconds) {
    const sorted = Object.entries(oldest).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    const rows = sorted.map(([reason, number]) => {
      if (!this.rows.has(reason)) this.rows.set(reason, makeRow(["n", "n"]));
      const row = this.rows.get(reason);
      fill(row, reason, "", [rate((now[reason] ?? 0) / (seconds || 1)), count(number)]);
      return row.row;
    });
    arrange(this.body, rows.length ? rows.slice(0, MOST) : [this.none]);
  }
}
