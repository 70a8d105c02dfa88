/** Numbers as people read them. */

const BYTE_UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** Decimal units, as browsers and download pages use them. @param {number} count */
export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2;
  return `${value.toFixed(unit < 2 ? 0 : digits)} ${BYTE_UNITS[unit]}`;
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** @param {number} milliseconds */
export function latency(milliseconds) {
  return milliseconds < 999.5 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** @param {number} value */
export function rate(value) {
  return value >= 99.5 ? value.toFixed(0) : value.toFixed(1);
}

/** @param {number} value */
export function count(value) {
  return value.toLocaleString("en-US");
}

/** "1 thread", "2 threads". @param {number} value @param {string} noun */
export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** "135M", "1.7B". @param {number} value */
export function amount(value) {
  const [scaled, unit] = value >= 999.5e6 ? [value / 1e9, "B"] : [value / 1e6, "M"];
  return `${scaled.toFixed(scaled >= 9.95 ? 0 : 1).replace(/\.0$/, "")}${unit}`;
}
