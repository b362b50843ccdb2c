/** Conversion between float16 and float32, for browsers without `Float16Array`. float16 numbers are bit patterns. */

/** All 65,536 float16 numbers. A look-up is faster than arithmetic, and an embedding has a million numbers. */
let table = /** @type {Float32Array | null} */ (null);

/** @param {Uint16Array} float16 bit patterns of float16 numbers @returns {Float32Array} the same numbers */
export function toFloat32(float16) {
  table ??= Float32Array.from({ length: 65536 }, (_, bits) => decode(bits));
  const float32 = new Float32Array(float16.length);
  for (let i = 0; i < float16.length; i++) float32[i] = table[float16[i]];
  return float32;
}

/**
 * Round to the nearest float16, ties to even.
 *
 * @param {Float32Array} float32
 * @returns {Uint16Array} bit patterns of float16 numbers
 */
export function toFloat16(float32) {
  const float16 = new Uint16Array(float32.length);
  const number = new Float32Array(1);
  const bits = new Uint32Array(number.buffer);
  for (let i = 0; i < float32.length; i++) {
    number[0] = float32[i];
    const sign = (bits[0] >>> 16) & 0x8000;
    const size = bits[0] & 0x7fffffff;
    float16[i] = sign | rounded(size, Math.abs(number[0]));
  }
  return float16;
}

/** @param {number} size bits of a float32 without its sign @param {number} value the float32's absolute value */
function rounded(size, value) {
  if (size > 0x7f800000) return 0x7e00; // NaN
  if (size >= 0x477ff000) return 0x7c00; // 65520 and above round to infinity
  if (size < 0x38800000) return roundedToEven(value * 2 ** 24); // below 2^-14 all steps are 2^-24
  // Rebase the exponent from 127 to 15 and drop 13 bits. A carry out of the fraction gives the next exponent.
  const rebased = size - 0x38000000;
  return (rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13;
}

/** @param {number} value */
function roundedToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** @param {number} bits */
function decode(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const sign = bits >> 15 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
