/** Colours of masks, chosen to differ from each other and from most images. */
export const COLOURS = ["#2f7bff", "#ff6f1f", "#17a765", "#d63bd6", "#e0ac00", "#00a7c7", "#e5383b", "#8257e6"];

/** @param {string} colour #rrggbb @returns {[red: number, green: number, blue: number]} 0..255 */
export function channels(colour) {
  const value = Number.parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
