/**
 * Which of the decoder's four masks a prompt gets, and in what order: by the model's rule, as the service does it.
 *
 * @typedef {import("../client/edgesam.js").Ranking} Ranking from /models
 * @typedef {"auto" | 1 | 3 | 4} Multimask
 */

/**
 * The outputs that may be answered, by index.
 *
 * @param {Multimask} multimask "auto": all four for a single point, which is ambiguous, else the first
 * @param {import("../client/edgesam.js").Prompt} prompt
 * @returns {number[]}
 */
export function candidates(multimask, prompt) {
  const isAmbiguous = prompt.points?.length === 1 && !prompt.box && !prompt.mask_id && !prompt.mask_logits;
  const count = multimask === "auto" ? (isAmbiguous ? 4 : 1) : multimask;
  return { 1: [0], 3: [1, 2, 3], 4: [0, 1, 2, 3] }[count];
}

/**
 * The score of each output, 0..1: the same terms in the same order as in the service, so that both agree to the last bit.
 *
 * @param {Ranking} ranking
 * @param {ArrayLike<number>} stability of each output, 0..1
 * @param {ArrayLike<number>} predictedIou of each output
 * @returns {number[]}
 */
export function scoresOf(ranking, stability, predictedIou) {
  return ranking.bias.map((bias, i) => {
    let score = bias;
    if (ranking.stability) score += ranking.stability * stability[i];
    if (ranking.predicted_iou) score += ranking.predicted_iou * predictedIou[i];
    return score < 0 ? 0 : score > 1 ? 1 : score; // NaN stays NaN
  });
}

/**
 * Outputs ordered by score, highest first; equal scores by index, and NaN last.
 *
 * @param {number[]} scores of all outputs
 * @param {number[]} indices those to order
 * @returns {number[]}
 */
export function rank(scores, indices) {
  const key = (index) => (Number.isNaN(scores[index]) ? -Infinity : scores[index]);
  return [...indices].sort((a, b) => (key(a) === key(b) ? a - b : key(b) - key(a)));
}
