/* Dropping islands of a mask and filling its holes, on low-resolution logits. */
#ifndef EDGESAM_PIECES_H
#define EDGESAM_PIECES_H

#include "decoder.h"

/* Cells at the points of a prompt, as flat indices of the 256 x 256 logits. */
typedef struct {
    const int32_t *cells;
    int32_t count;
} edgesam_cells;

/* Changes the signs of logits in place: of pieces below a share of the largest piece's area, then of holes below it.
 * Cells that share a side belong to one piece, or to one hole.
 *
 * `rows` and `columns` are the part of the logits inside the image; the others stay as they are. A piece or hole that
 * holds a cell of `held` stays. Another piece that holds a cell of `rejected` is dropped below `rejected_share`. A
 * changed logit is at least `least` away from 0.
 *
 * Returns 0, or -1 when memory runs out. */
EDGESAM_API int32_t edgesam_filter_pieces(float *logits, int32_t rows, int32_t columns, const edgesam_cells *held,
                                          const edgesam_cells *rejected, double small_share, double rejected_share,
                                          float least);

#endif
