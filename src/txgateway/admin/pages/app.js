// The page: asks, keeps the last five minutes, and shows them.

import { Chart, SPAN_S } from "./chart.js";
import { age, between, count, grewByName, latency, percent, rate } from "./numbers.js";
import { Backends, Reasons, Routes, say } from "./tables.js";
import { ask, Watch } from "./watch.js";

/** Numbers of now are of this many seconds; longer answers than polls must not make them jump. */
const WINDOW_S = 5;
/** A chart has a point this often; a longer silence than the other is a gap, and the gateway is asked what it was. */
const POINT_S = 1.9;
const GAP_S = 8;
/** From this share of 5xx on the card has a coloured edge. */
const ALARMING_SHARE = 0.01;

const at = (id) => document.getElementById(id);
const format = (seconds) => latency(seconds, bounds.at(-1));
const perSecond = (number) => rate(number);
const tick = (seconds) => (seconds < 1 ? `${round(seconds * 1000)} ms` : `${round(seconds)} s`);
const round = (number) => Number(number.toPrecision(3));

let bounds = [30];
let looks = []; // whole answers of the last seconds, for what happens now
let samples = []; // totals of the last minutes, for the charts
let points = []; // what happened between each two of them
let last = null;
let answeredAt = 0;

const routes = new Routes();
const backends = new Backends();
const reasons = new Reasons();
const charts = [
  new Chart(at("chart-rate"), {
    title: "Requests per second", series: [{ key: "rate", name: "rate", look: "k1" }], format: perSecond, floor: 2,
  }),
  new Chart(at("chart-latency"), {
    title: "Latency",
    series: [{ key: "p99", name: "p99", look: "k3" }, { key: "p90", name: "p90", look: "k2" }, { key: "p50", name: "p50", look: "k1" }],
    format, label: tick, floor: 0.0001, log: true,
  }),
  new Chart(at("chart-errors"), {
    title: "Errors per second",
    series: [{ key: "clientErrors", name: "4xx", look: "k5" }, { key: "serverErrors", name: "5xx", look: "k4" }],
    format: perSecond, floor: 2,
  }),
  new Chart(at("chart-in-flight"), {
    title: "Requests in flight", series: [{ key: "inFlight", name: "in flight", look: "k1" }], format: perSecond, floor: 2,
  }),
  new Chart(at("chart-connections"), {
    title: "Client connections", series: [{ key: "connections", name: "open", look: "k1" }], format: perSecond, floor: 2,
  }),
];

// --- what is kept ---------------------------------------------------------------------------------------------------

function add(sample) {
  const before = samples.at(-1);
  if (before && sample.at_s - before.at_s < POINT_S) return;
  samples.push(sample);
  if (before) {
    points.push({
      t: sample.at_s,
      inFlight: sample.in_flight,
      connections: sample.connections,
      ...between(before, sample, sample.at_s - before.at_s, bounds),
    });
  }
  while (samples.length > 2 && samples[1].at_s <= sample.at_s - SPAN_S) samples.shift();
  while (points.length && points[0].t < sample.at_s - SPAN_S) points.shift();
}

async function keep(status) {
  bounds = status.bounds_s;
  const isNew = last && status.uptime_s < last.uptime_s;
  if (!last || isNew || status.uptime_s - last.uptime_s > GAP_S) {
    // Opened, shown again after a while, or another gateway: what was before is known only there.
    looks = [];
    samples = [];
    points = [];
    for (const sample of (await ask("status/history")).samples) {
      if (sample.at_s <= status.totals.at_s) add(sample);
    }
  }
  add(status.totals);
  looks.push(status);
  while (looks.length > 2 && looks[1].uptime_s <= status.uptime_s - WINDOW_S) looks.shift();
  last = status;
  answeredAt = Date.now();
}

// --- what is shown --------------------------------------------------------------------------------------------------

const STATES = { ready: "good", starting: "warn", draining: "warn" };

function show(status) {
  const earlier = looks.length > 1 ? looks[0] : null;
  const seconds = earlier ? status.uptime_s - earlier.uptime_s : 0;
  showState(status);
  showTotals(status, earlier, seconds);
  routes.update(status, earlier, seconds);
  backends.update(status, earlier, seconds);
  for (const chart of charts) chart.draw(points, status.totals.at_s);
}

function showState(status) {
  at("state").className = `badge ${STATES[status.state] ?? "bad"}`;
  say(at("state"), status.state);
  say(at("version"), status.version);
  say(at("uptime"), age(status.uptime_s));
  say(at("updated"), "live");
  document.title = status.state === "ready" ? "txgateway" : `${status.state} – txgateway`;
  list("warnings", status.warnings);
  say(at("warnings-count"), `${count(status.warnings.length)} configuration ${status.warnings.length === 1 ? "warning" : "warnings"}`);
  const alarms = [];
  if (status.rate_limit_degraded) alarms.push("Rate limits are kept without their store.");
  if (status.connections_refused) alarms.push(`${count(status.connections_refused)} connections refused at the limit since the start.`);
  if (status.log_lines_dropped) alarms.push(`${count(status.log_lines_dropped)} log lines dropped since the start.`);
  list("alarms", alarms);
}

function list(id, texts) {
  at(id).hidden = !texts.length;
  const shown = [...at(`${id}-list`).children].map((item) => item.textContent);
  if (shown.length === texts.length && shown.every((text, i) => text === texts[i])) return;
  at(`${id}-list`).replaceChildren(
    ...texts.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }),
  );
}

function showTotals(status, earlier, seconds) {
  // Before there are two looks, the last of the history's points says as much.
  const work = earlier ? between(earlier.totals, status.totals, seconds, bounds) : points.at(-1);
  say(at("in-flight"), count(status.totals.in_flight));
  say(at("connections"), count(status.totals.connections));
  say(at("protocols"), Object.entries(status.connections).filter(([, number]) => number).map(([name, number]) => `${name} ${count(number)}`).join(", "));
  if (!work) return;
  say(at("rate"), rate(work.rate));
  for (const key of ["p50", "p90", "p99"]) say(at(key), format(work[key]));
  say(at("server-errors"), rate(work.serverErrors));
  say(at("client-errors"), rate(work.clientErrors));
  say(at("error-share"), percent(work.share));
  at("card-errors").classList.toggle("bad", (work.share ?? 0) >= ALARMING_SHARE);
  const now = earlier ? grewByName(earlier.totals.errors, status.totals.errors) : {};
  reasons.update(now, grewByName(samples[0]?.errors, status.totals.errors), seconds);
}

// --- what is told to those who do not see it ------------------------------------------------------------------------

const QUIET_MS = 5000;
let toTell = [];
let told = new Map();
let tellTimer = 0;

function tell(text) {
  toTell.push(text);
  if (!tellTimer) tellTimer = setTimeout(tellAll, 0);
}

function tellAll() {
  const most = 5;
  const more = toTell.length - most;
  at("said").textContent = toTell.slice(0, most).join(" ") + (more > 0 ? ` And ${more} more changes.` : "");
  toTell = [];
  tellTimer = setTimeout(() => {
    tellTimer = 0;
    if (toTell.length) tellAll();
  }, QUIET_MS);
}

/** Only what changes its name: a state, a target's health, a breaker. */
function tellChanges(status) {
  const words = new Map([["The gateway", status.state]]);
  for (const backend of status.backends) {
    for (const target of backend.targets) {
      const who = `Target ${target.address} of ${backend.name}`;
      words.set(who, target.health);
      words.set(`The breaker of ${target.address} of ${backend.name}`, target.breaker);
    }
  }
  for (const [who, word] of words) if (told.has(who) && told.get(who) !== word) tell(`${who} is ${word}.`);
  told = words;
}

// --- asking ---------------------------------------------------------------------------------------------------------

let retryAt = 0;
let isStale = false;

function setStale(isNow) {
  if (isNow !== isStale) tell(isNow ? "The gateway does not answer. The numbers are stale." : "The gateway answers again.");
  isStale = isNow;
  at("stale").hidden = !isNow;
  document.body.classList.toggle("stale", isNow);
}

const watch = new Watch(
  async () => {
    const status = await ask("status");
    await keep(status);
    if (watch.isPaused) return;
    setStale(false);
    show(status);
    tellChanges(status);
  },
  (error, wait) => {
    retryAt = Date.now() + wait;
    setStale(true);
    at("state").className = "badge bad";
    say(at("state"), "no answer");
    document.title = "stale – txgateway";
    passTime();
  },
);

/** What changes by the clock alone. */
function passTime() {
  const since = answeredAt ? `Last answer ${age((Date.now() - answeredAt) / 1000)} ago, at ${new Date(answeredAt).toLocaleTimeString()}.` : "There was no answer yet.";
  if (watch.isPaused) say(at("updated"), answeredAt ? `paused at ${new Date(answeredAt).toLocaleTimeString()}` : "paused");
  if (!isStale) return;
  say(at("updated"), "");
  const next = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  say(at("stale-text"), `${since} ${watch.isPaused ? "Paused." : next ? `Asking again in ${next} s.` : "Asking again."}`);
}

// --- controls -------------------------------------------------------------------------------------------------------

at("retry").addEventListener("click", () => watch.now());
at("pause").addEventListener("click", () => {
  watch.pause(!watch.isPaused);
  at("pause").setAttribute("aria-pressed", String(watch.isPaused));
  document.body.classList.toggle("paused", watch.isPaused);
  passTime();
});

const THEMES = ["auto", "light", "dark"];
const remember = (theme) => {
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Not allowed here: it lasts as long as the page.
  }
};
const remembered = () => {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
};

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  say(at("theme"), `Theme: ${theme}`);
}

setTheme(THEMES.includes(remembered()) ? remembered() : "auto");
at("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  setTheme(next);
  remember(next);
});

setInterval(passTime, 1000);
watch.now();
