/**
 * Selects and orders the decoder's four masks by the model's ranking rule, as in the service.
 *
 * @typedef {import("../client/edgesam.js").Ranking} Ranking ranking rule from /models
 * @typedef {import("../client/edgesam.js").AutoMasks} AutoMasks
 * @typedef {{ranking: Ranking, auto_masks: AutoMasks}} Rules rules of the model for its masks, from /models
 * @typedef {"auto" | 1 | 3 | 4} Multimask
 */

/**
 * The indices of the outputs from which those of a prompt are selected.
 *
 * @param {Multimask} multimask number of masks; "auto": several for a single point, which is ambiguous, else one
 * @param {import("../client/edgesam.js").Prompt} prompt
 * @param {Rules} rules "auto" selects the best of all outputs that the model uses for several points without a box, if
 *   the ranking weighs output 0 against the others
 * @returns {number[]}
 */
export function candidates(multimask, prompt, { ranking, auto_masks: { ambiguous, other } }) {
  if (multimask === 3) return [1, 2, 3];
  if (multimask === 4) return [0, 1, 2, 3];
  if (multimask === 1) return other;
  if (isAmbiguous(prompt)) return ambiguous;
  const comparesAll = new Set(ranking.bias).size > 1;
  const takesBest = comparesAll && (prompt.points?.length ?? 0) > 1 && !prompt.box;
  return takesBest ? [...new Set([...ambiguous, ...other])].sort() : other;
}

/**
 * The number of masks that a prompt gets.
 *
 * @param {Multimask} multimask
 * @param {import("../client/edgesam.js").Prompt} prompt
 * @param {Rules} rules
 * @returns {number}
 */
export function maskCount(multimask, prompt, rules) {
  if (multimask !== "auto") return multimask;
  return isAmbiguous(prompt) ? rules.auto_masks.ambiguous.length : 1;
}

/**
 * The numbers by which outputs are ordered: their scores, raised where the mask agrees with all points.
 *
 * @param {number[]} scores
 * @param {boolean[]} agrees
 * @param {number} agreement number that is added there, from the model's ranking
 * @returns {number[]}
 */
export function preferAgreeing(scores, agrees, agreement) {
  return scores.map((score, i) => score + agreement * Number(agrees[i]));
}

/**
 * The score of each output, not bounded, for the order; see `limitedScore`.
 *
 * The terms are added in the service's order, so that both agree to the last bit.
 *
 * @param {Ranking} ranking
 * @param {ArrayLike<number>} stability stability of each output, 0..1
 * @param {ArrayLike<number>} predictedIou predicted IoU of each output
 * @returns {number[]}
 */
export function scoresOf(ranking, stability, predictedIou) {
  return ranking.bias.map((bias, i) => {
    let score = bias;
    if (ranking.stability) score += ranking.stability * stability[i];
    if (ranking.predicted_iou) score += ranking.predicted_iou * predictedIou[i];
    return score;
  });
}

/**
 * A score limited to 0..1, as answers state it. NaN stays NaN.
 *
 * @param {number} score
 * @returns {number}
 */
export function limitedScore(score) {
  return score < 0 ? 0 : score > 1 ? 1 : score;
}

/**
 * Outputs ordered by score, highest first. Equal scores are ordered by index, and NaN comes last.
 *
 * @param {number[]} scores scores of all outputs
 * @param {number[]} indices outputs to order
 * @returns {number[]}
 */
export function rank(scores, indices) {
  const isMissing = (index) => Number.isNaN(scores[index]);
  return [...indices].sort((a, b) => {
    if (isMissing(a) !== isMissing(b)) return Number(isMissing(a)) - Number(isMissing(b));
    return isMissing(a) || scores[a] === scores[b] ? a - b : scores[b] - scores[a];
  });
}

function isAmbiguous(prompt) {
  return prompt.points?.length === 1 && !prompt.box && !prompt.mask_id && !prompt.mask_logits;
}
