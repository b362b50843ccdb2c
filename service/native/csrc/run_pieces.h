/* Dropping small pieces of an enlarged mask and filling its small holes, on the mask's transitions. */
#ifndef EDGESAM_RUN_PIECES_H
#define EDGESAM_RUN_PIECES_H

#include "decoder.h"

/* Pixels of the image, counted column after column. */
typedef struct {
    const uint32_t *pixels;
    int32_t count;
} edgesam_pixels;

/* Changes transitions, as `edgesam_mask_transitions` makes them, in place: takes out the pieces below a share of the
 * largest piece's area, then the holes below it. Pixels that share a side belong to one piece, or to one hole.
 *
 * A piece that holds a pixel of `positive` stays, and so does a hole that holds one of `negative`. The image has less
 * than 2^32 pixels. `area` and `box` get those of the result.
 *
 * Returns the number of transitions, which does not rise, or -1 when memory runs out. It takes 20 bytes for each run
 * in a column. */
EDGESAM_API int64_t edgesam_filter_transitions(uint32_t *transitions, int64_t count, int32_t height, int32_t width,
                                               const edgesam_pixels *positive, const edgesam_pixels *negative,
                                               double small_share, int64_t *area, int32_t box[4]);

#endif
