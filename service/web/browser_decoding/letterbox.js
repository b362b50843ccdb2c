/**
 * Between a picture and the square frame that the model sees, as the service does it (service/sam/transforms.py and
 * prompts.py): the picture lies in the frame at the top left, its longer side as long as the frame's.
 *
 * @typedef {{width: number, height: number}} Size pixels
 * @typedef {{first: Int32Array, weights: Float32Array}} Upsampling one axis of a picture: its pixel i is the sum of
 *   `weights[3 * i + k] * logits[first[i] + k]`, k from 0 to 2
 */

const FRAME_SIZE = 1024;
export const MASK_SIZE = 256; // side of the decoder's logits; they cover the frame
export const TAPS = 3;

// The decoder's labels beside 0 and 1, those of clicks.
const ABSENT = -3;
const PADDING = -1;
const BOX_TOP_LEFT = 2;
const BOX_BOTTOM_RIGHT = 3;

/** Size of a picture inside the frame. @param {Size} size @returns {Size} */
export function inputSize({ width, height }) {
  const scale = FRAME_SIZE / Math.max(width, height);
  return { width: Math.floor(width * scale + 0.5), height: Math.floor(height * scale + 0.5) };
}

/**
 * What the decoder is told of a prompt: its points, then the corners of its box, or a padding point without a box. A
 * prompt of a mask alone has no token, for which an absent one stands.
 *
 * @param {import("../client/edgesam.js").Prompt} prompt
 * @param {Size} size of the picture
 * @returns {{points: Float32Array, labels: BigInt64Array}} x and y of each token in the frame; its label
 */
export function tokensOf({ points = [], box }, size) {
  const input = inputSize(size);
  /** @type {{x: number, y: number, label: number}[]} */
  const tokens = points.map(({ x, y, label = 1 }) => ({ x, y, label }));
  if (box) {
    const [x0, y0, x1, y1] = box;
    tokens.push({ x: x0, y: y0, label: BOX_TOP_LEFT }, { x: x1, y: y1, label: BOX_BOTTOM_RIGHT });
  } else {
    tokens.push({ x: 0, y: 0, label: points.length ? PADDING : ABSENT });
  }
  const [across, down] = [input.width / size.width, input.height / size.height];
  return {
    points: Float32Array.from(tokens.flatMap(({ x, y }) => [x * across, y * down])),
    labels: BigInt64Array.from(tokens, ({ label }) => BigInt(label)),
  };
}

/**
 * The two bilinear steps from logits to pixels along one axis, first to the frame and then to the picture, as one.
 * Two steps reach two neighbours of the frame, hence at most three neighbouring logits.
 *
 * @param {number} length side of the picture, pixels
 * @param {number} inputLength the same side inside the frame
 * @returns {Upsampling}
 */
export function upsampling(length, inputLength) {
  const first = new Int32Array(length);
  const weights = new Float32Array(TAPS * length);
  const exact = new Float64Array(TAPS);
  for (let i = 0; i < length; i++) {
    const outer = between(i, length, inputLength);
    first[i] = Math.min(between(outer.below, FRAME_SIZE, MASK_SIZE).below, MASK_SIZE - TAPS);
    exact.fill(0);
    for (const [pixel, share] of [[outer.below, 1 - outer.share], [outer.above, outer.share]]) {
      const inner = between(pixel, FRAME_SIZE, MASK_SIZE);
      exact[inner.below - first[i]] += share * (1 - inner.share);
      exact[inner.above - first[i]] += share * inner.share;
    }
    weights.set(exact, TAPS * i);
  }
  return { first, weights };
}

/** The two samples of the source around a sample's centre, and the share of the second; edges are repeated. */
function between(i, targetLength, sourceLength) {
  const source = Math.max((i + 0.5) * (sourceLength / targetLength) - 0.5, 0);
  const below = Math.min(Math.floor(source), sourceLength - 1);
  return { below, above: Math.min(below + 1, sourceLength - 1), share: source - below };
}
