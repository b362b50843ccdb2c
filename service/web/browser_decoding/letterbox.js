/**
 * Coordinates of the image and of the model's square frame, as in service/sam/transforms.py and prompts.py.
 *
 * The image is scaled so that its longer side equals the frame's side. It lies at the top left of the frame.
 *
 * @typedef {{width: number, height: number}} Size pixels
 * @typedef {{first: Int32Array, weights: Float32Array}} Upsampling upsampling along one axis: pixel i of the image is
 *   the sum of `weights[3 * i + k] * logits[first[i] + k]`, k from 0 to 2
 */

export const FRAME_SIZE = 1024;
export const MASK_SIZE = 256; // side of the decoder's logits, which cover the frame
export const TAPS = 3;

// The decoder's labels besides 0 and 1, which are the labels of points.
const ABSENT = -3;
const PADDING = -1;
const BOX_TOP_LEFT = 2;
const BOX_BOTTOM_RIGHT = 3;

/** The size of an image inside the frame. @param {Size} size @returns {Size} */
export function inputSize({ width, height }) {
  const scale = FRAME_SIZE / Math.max(width, height);
  return { width: Math.floor(width * scale + 0.5), height: Math.floor(height * scale + 0.5) };
}

/**
 * The decoder's input for a prompt: its points, then the corners of its box clipped to the image, or a padding point if
 * there is no box.
 *
 * A prompt with only a mask has no tokens; an absent token takes their place.
 *
 * @param {import("../client/edgesam.js").Prompt} prompt
 * @param {Size} size size of the image
 * @returns {{points: Float32Array, labels: BigInt64Array}} x and y of each token in the frame, and its label
 */
export function tokensOf({ points = [], box }, size) {
  const input = inputSize(size);
  /** @type {{x: number, y: number, label: number}[]} */
  const tokens = points.map(({ x, y, label = 1 }) => ({ x, y, label }));
  if (box) {
    const [x0, y0, x1, y1] = clippedBox(box, size);
    tokens.push({ x: x0, y: y0, label: BOX_TOP_LEFT }, { x: x1, y: y1, label: BOX_BOTTOM_RIGHT });
  } else {
    tokens.push({ x: 0, y: 0, label: points.length ? PADDING : ABSENT });
  }
  const [scaleX, scaleY] = [input.width / size.width, input.height / size.height];
  return {
    points: Float32Array.from(tokens.flatMap(({ x, y }) => [x * scaleX, y * scaleY])),
    labels: BigInt64Array.from(tokens, ({ label }) => BigInt(label)),
  };
}

/**
 * The part of a box inside the image. Corners beyond it are positions that the model was not trained on.
 *
 * @param {import("../client/edgesam.js").Box} box
 * @param {Size} size size of the image
 * @returns {import("../client/edgesam.js").Box}
 */
export function clippedBox(box, { width, height }) {
  const [x0, x1] = [box[0], box[2]].map((x) => Math.min(Math.max(x, 0), width));
  const [y0, y1] = [box[1], box[3]].map((y) => Math.min(Math.max(y, 0), height));
  return [x0, y0, x1, y1];
}

/**
 * The two bilinear steps along one axis, from logits to the frame and from the frame to the image, as one step.
 *
 * A pixel of the image depends on two neighbouring pixels of the frame, hence on at most three neighbouring logits.
 *
 * @param {number} length side of the image, in pixels
 * @param {number} inputLength the same side inside the frame, in pixels
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

/** The two source samples around the centre of target sample i, and the weight of the second. Edges are repeated. */
function between(i, targetLength, sourceLength) {
  const source = Math.max((i + 0.5) * (sourceLength / targetLength) - 0.5, 0);
  const below = Math.min(Math.floor(source), sourceLength - 1);
  return { below, above: Math.min(below + 1, sourceLength - 1), share: source - below };
}
