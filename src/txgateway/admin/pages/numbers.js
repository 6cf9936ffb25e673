// Arithmetic on counters, and how numbers are written. Nothing here touches the page.

/** What a counter grew by; one that fell began anew. */
export const grew = (before, after) => Math.max(0, after - before);

/** Counters by name: what each grew by, those that did not left out. */
export function grewByName(before, after) {
  const grown = {};
  for (const [name, count] of Object.entries(after)) {
    const more = grew(before?.[name] ?? 0, count);
    if (more) grown[name] = more;
  }
  return grown;
}

export const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/**
 * The q-quantile of a histogram whose buckets are not cumulative, evenly spread within a bucket.
 * null without a value, Infinity beyond the last bound.
 */
export function quantile(q, buckets, bounds) {
  const total = sum(buckets);
  if (!total) return null;
  let left = q * total;
  for (let i = 0; i < bounds.length; i += 1) {
    if (left <= buckets[i] && buckets[i]) {
      const low = i ? bounds[i - 1] : 0;
      return low + (bounds[i] - low) * (left / buckets[i]);
    }
    left -= buckets[i];
  }
  return Infinity;
}

/** Rates and quantiles of an activity between two looks that were `seconds` apart. */
export function between(before, after, seconds, bounds) {
  const buckets = after.buckets.map((count, i) => grew(before?.buckets[i] ?? 0, count));
  const requests = grew(before?.requests ?? 0, after.requests);
  const serverErrors = grew(before?.server_errors ?? 0, after.server_errors);
  const clientErrors = grew(before?.client_errors ?? 0, after.client_errors);
  return {
    rate: requests / seconds,
    serverErrors: serverErrors / seconds,
    clientErrors: clientErrors / seconds,
    share: requests ? serverErrors / requests : null,
    p50: quantile(0.5, buckets, bounds),
    p90: quantile(0.9, buckets, bounds),
    p99: quantile(0.99, buckets, bounds),
  };
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const ONE = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const NONE = "–";

export const count = (number) => WHOLE.format(number);

export function rate(number) {
  if (number === null) return NONE;
  if (number > 0 && number < 0.1) return "<0.1";
  return number < 10 ? ONE.format(number) : WHOLE.format(number);
}

export function percent(share) {
  if (share === null) return NONE;
  if (share > 0 && share < 0.001) return "<0.1%";
  return `${ONE.format(share * 100)}%`;
}

/** Seconds, as a latency; `longest` is the last bound of the histogram. */
export function latency(seconds, longest) {
  if (seconds === null) return NONE;
  if (seconds === Infinity) return `>${longest} s`;
  const ms = seconds * 1000;
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  return seconds < 10 ? `${seconds.toFixed(2)} s` : `${seconds.toFixed(1)} s`;
}

/** Seconds, as an age: the two largest units. */
export function age(seconds) {
  let left = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const whole = Math.floor(left / size);
    left -= whole * size;
    if (whole || (parts.length && parts.length < 2)) parts.push(`${whole} ${unit}`);
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0 s";
}
