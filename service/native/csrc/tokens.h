/* The steps of the decoder on the prompt tokens: few tokens, all channels. */
#ifndef EDGESAM_TOKENS_H
#define EDGESAM_TOKENS_H

#include "decode_context.h"

/* The labels of service/sam/prompts.py. From LABEL_PADDING on they have a type embedding, from 0 on a position. */
enum { LABEL_ABSENT = -3, LABEL_IGNORED = -2, LABEL_PADDING = -1, LABEL_LAST = 3 };

/* Writes the output tokens and then the tokens of the prompt to start (T, C). Returns T. */
int tokens_embed(const parameters *, const float *points, const int64_t *labels, int length, float *start);

/* Self attention. The first layer adds neither the positional code nor the residual.
 * Source: docs/explanation/model.md, section 3.2. */
void tokens_attend(const decode_context *, const layer *, int is_first);

/* Computes the tokens' side of token_to_image for a pass. `is_projected`: `prepare` has projected the image; otherwise
 * the projection of the image is absorbed into the tokens. */
void tokens_prepare_token_to_image(const decode_context *, const token_to_image_attention *, int is_projected);

/* Computes the tokens' side of image_to_token for a pass. */
void tokens_prepare_image_to_token(const decode_context *, const image_to_token_attention *, int is_projected);

/* Joins the sums of the chunks in order, and adds the result of token_to_image to the tokens. */
void tokens_finish_token_to_image(const decode_context *, const token_to_image_attention *, const norm *);

void tokens_feed_forward(const decode_context *, const layer *);

/* Predicted IoU of all outputs (docs/explanation/model.md, section 3.3), and the masks that are wanted by it. */
void tokens_predict(decode_context *, float *iou_predictions);

/* Hypernetworks of the wanted masks. */
void tokens_predict_masks(const decode_context *);

#endif
