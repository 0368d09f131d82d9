// How numbers are written: every one with its unit, and what nobody knows as "not measured".

export const ABSENT = "not measured";
const SPACE = "\u202f"; // narrow, and no line breaks at it
const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Three digits, or all of a larger number: 0.0123, 1.23, 12.3, 123, 1,234. */
export function short(value) {
  if (!isNumber(value)) return ABSENT;
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en-US", { minimumFractionDigits: Math.min(digits, 4), maximumFractionDigits: Math.min(digits, 4) });
}

/** Whole numbers: 12,032. */
export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en-US") : ABSENT;
}

/** So many layers from the first on: layers 0–23, or layer 7. */
export function layerRange(first, many) {
  return many > 1 ? `layers ${first}–${first + many - 1}` : `layer ${first}`;
}

/** Sizes, in units of 1024. */
export function bytes(value) {
  if (!isNumber(value)) return ABSENT;
  const power = value < 1 ? 0 : Math.min(BYTES.length - 1, Math.floor(Math.log2(value) / 10));
  return power === 0 ? `${value}${SPACE}B` : `${short(value / 1024 ** power)}${SPACE}${BYTES[power]}`;
}

/** Bytes per second, in GB/s as makers of memory say it. */
export function bandwidth(value) {
  return isNumber(value) ? `${short(value / 1e9)}${SPACE}GB/s` : ABSENT;
}

/** A share: 0.034 is 3.4 %. */
export function percent(value, digits = value < 0.1 ? 1 : 0) {
  return isNumber(value) ? `${(100 * value).toFixed(digits)}${SPACE}%` : ABSENT;
}

/** A short time: 310 µs, 16.4 ms, 2.31 s. */
export function time(seconds) {
  if (!isNumber(seconds)) return ABSENT;
  if (seconds === 0) return `0${SPACE}s`;
  if (seconds < 1e-3) return `${short(seconds * 1e6)}${SPACE}µs`;
  if (seconds < 1) return `${short(seconds * 1e3)}${SPACE}ms`;
  return `${short(seconds)}${SPACE}s`;
}

/** A long time in two units: 12 s, 3 min 20 s, 2 h 5 min, 4 d 3 h. */
export function age(seconds) {
  if (!isNumber(seconds)) return ABSENT;
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => whole >= size);
  if (first < 0) return `0${SPACE}s`;
  let rest = whole;
  const said = [];
  for (const [unit, size] of parts.slice(first, first + 2)) {
    const many = Math.floor(rest / size);
    rest -= many * size;
    if (many || !said.length) said.push(`${many}${SPACE}${unit}`);
  }
  return said.join(" ");
}

/** How often something is, of what would be fair: 2.4 ×. */
export function times(value) {
  return isNumber(value) ? `${short(value)}${SPACE}×` : ABSENT;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** The time of day of a Unix time, with the day if that is another. */
export function clock(unix, now = unix) {
  if (!isNumber(unix)) return ABSENT;
  const then = new Date(1000 * unix);
  const isToday = DAY.format(then) === DAY.format(new Date(1000 * now));
  return isToday ? CLOCK.format(then) : `${DAY.format(then)} ${CLOCK.format(then)}`;
}
