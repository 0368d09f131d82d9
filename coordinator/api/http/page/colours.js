// Colours of owners and of numbers, computed in OKLCH, where equal steps look equally large in both themes.
//
// Owners differ in hue, the first two (blue, orange) for every kind of colour vision, and further ones in lightness too.
// A number is lightness: few is near the paper, many is far from it. No colour here says good or bad.

const OWNERS = [
  // lightness on light and on dark paper, chroma, hue
  [0.55, 0.7, 0.15, 255], // blue
  [0.68, 0.76, 0.15, 58], // orange
  [0.62, 0.76, 0.11, 170], // green
  [0.52, 0.66, 0.17, 345], // magenta
  [0.8, 0.86, 0.14, 98], // yellow
  [0.74, 0.82, 0.09, 225], // sky
  [0.5, 0.6, 0.15, 30], // brick
  [0.44, 0.58, 0.15, 295], // violet
];
const STEPS = 256;

/** sRGB, 0 to 255 each; a chroma that no screen shows is lessened. */
export function oklch(lightness, chroma, hue) {
  for (let c = chroma; ; c -= 0.004) {
    const rgb = linear(lightness, Math.max(c, 0), (hue * Math.PI) / 180);
    if (c <= 0 || rgb.every((value) => value > -1e-4 && value < 1.0001)) return rgb.map(encode);
  }
}

function linear(lightness, chroma, angle) {
  const a = chroma * Math.cos(angle);
  const b = chroma * Math.sin(angle);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

function encode(value) {
  const bounded = Math.min(1, Math.max(0, value));
  return Math.round(255 * (bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * bounded ** (1 / 2.4) - 0.055));
}

/** As a canvas keeps a pixel, on a little-endian machine. */
export const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

export const css = (value) => `rgb(${value & 255} ${(value >> 8) & 255} ${(value >> 16) & 255})`;

function ramp(colourAt) {
  return Uint32Array.from({ length: STEPS }, (_, step) => pixel(colourAt(step / (STEPS - 1))));
}

const made = new Map();

function once(key, make) {
  if (!made.has(key)) made.set(key, make());
  return made.get(key);
}

/** The colour of a worker. */
export function ownerColour(worker, isDark) {
  const [light, dark, chroma, hue] = OWNERS[worker % OWNERS.length];
  const round = Math.floor(worker / OWNERS.length) * 0.1;
  return pixel(oklch((isDark ? dark : light) - round, chroma, hue));
}

/** From nearly paper to a worker's hue at its fullest: equal lightness for all workers, so that they compare. */
export function ownerRamp(worker, isDark) {
  const [, , chroma, hue] = OWNERS[worker % OWNERS.length];
  return once(`owner ${worker} ${isDark}`, () =>
    ramp((t) => (isDark ? oklch(0.27 + 0.53 * t, 0.035 + chroma * t, hue) : oklch(0.945 - 0.445 * t, 0.025 + chroma * t, hue))));
}

/** For numbers that belong to nobody: paper, sand, red, violet. */
export function sequential(isDark) {
  return once(`sequential ${isDark}`, () =>
    ramp((t) => {
      const chroma = 0.025 + 0.145 * Math.sin(Math.PI * Math.min(1, 0.08 + 0.85 * t));
      return isDark ? oklch(0.27 + 0.65 * t, chroma, 300 + 155 * t) : oklch(0.945 - 0.645 * t, chroma, 95 - 155 * t);
    }));
}

/** For less and more than a fair share: teal, paper, magenta. */
export function diverging(isDark) {
  return once(`diverging ${isDark}`, () =>
    ramp((t) => {
      const far = Math.abs(2 * t - 1);
      const lightness = isDark ? 0.3 + 0.5 * far : 0.93 - 0.46 * far;
      return oklch(lightness, 0.15 * far, t < 0.5 ? 190 : 350);
    }));
}

/** Of what all workers hold together. */
export function sharedRamp(isDark) {
  return once(`shared ${isDark}`, () => ramp((t) => (isDark ? oklch(0.27 + 0.53 * t, 0, 0) : oklch(0.945 - 0.445 * t, 0, 0))));
}

/** Of what was never chosen, where only choices are shown. */
export const emptyColour = (isDark) => pixel(isDark ? oklch(0.225, 0.004, 270) : oklch(0.975, 0.003, 100));

/** The colour at a place from 0 to 1. */
export const at = (colours, place) => colours[Math.min(STEPS - 1, Math.max(0, Math.round(place * (STEPS - 1))))];

/** Makes --owner-0, --owner-1 and so on, for what is no canvas. */
export function declareOwners(workers, isDark) {
  for (let worker = 0; worker < workers; worker++) {
    document.documentElement.style.setProperty(`--owner-${worker}`, css(ownerColour(worker, isDark)));
  }
}
