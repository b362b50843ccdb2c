/* The prompt's side of the decoder: few tokens, all channels. */
#ifndef EDGESAM_TOKENS_H
#define EDGESAM_TOKENS_H

#include "call.h"

/* service/sam/prompts.py; from LABEL_PADDING on a label has a type embedding, from 0 on a place. */
enum { LABEL_ABSENT = -3, LABEL_IGNORED = -2, LABEL_PADDING = -1, LABEL_LAST = 3 };

/* The output tokens and, behind them, the prompt's: start (T, C). Returns T. */
int tokens_embed(const parameters *, const float *points, const int64_t *labels, int length, float *start);

/* Self attention; the first layer adds neither position nor residual (docs/explanation/model.md, section 3.2). */
void tokens_attend(const call *, const layer *, int is_first);

/* Makes what a pass needs to let the prompt tokens read the image. `is_projected`: `prepare` has projected the image;
 * otherwise the projection is absorbed into the tokens. */
void tokens_prepare_read(const call *, const read_attention *, int is_projected);

/* Makes what a pass needs to let the image tokens read the prompt. */
void tokens_prepare_write(const call *, const write_attention *, int is_projected);

/* Joins the chunks' sums in order, and adds what the tokens have read to them. */
void tokens_finish_read(const call *, const read_attention *, const norm *);

void tokens_feed_forward(const call *, const layer *);

/* Hypernetworks and predicted IoU (docs/explanation/model.md, section 3.3). */
void tokens_predict(const call *, float *iou_predictions);

#endif
