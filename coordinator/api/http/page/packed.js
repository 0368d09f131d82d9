// Arrays of the stream: {"type": "uint16", "shape": [94, 128], "data": base64}, little-endian, row after row.

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float64: Float64Array };

/** The numbers, one after the other. */
export function unpack(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return new TYPES[packed.type](bytes.buffer);
}

const unpacked = new WeakMap();

/** As `unpack`, once for each part of the stream. */
export function numbersOf(packed) {
  let numbers = unpacked.get(packed);
  if (!numbers) unpacked.set(packed, (numbers = unpack(packed)));
  return numbers;
}
