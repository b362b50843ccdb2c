/* Masks at the resolution of the image from low-resolution logits, as transitions or as pixels. */
#ifndef EDGESAM_MASKS_H
#define EDGESAM_MASKS_H

#include "decoder.h"

#define EDGESAM_MASK_SIZE 256
#define EDGESAM_TAPS 3

/* The upsampling from logits to pixels along one axis: `Upsampling` of service/sam/transforms.py. */
typedef struct {
    int32_t length;
    const int32_t *first;  /* (length), the first of the three logits of a pixel's weighted mean; not decreasing */
    const float *weights;  /* (3, length), not negative, columns of sum 1 */
    const int32_t *starts; /* (255), the first pixel of the window of three logits that begins with each logit */
} edgesam_axis;

/* Computes where the mask begins and ends among the pixels of the image, counted column after column as in COCO.
 *
 * A pixel belongs to the mask when the weighted mean of its 3 x 3 logits is above 0. `transitions` gets the positions,
 * rising; the first one is a beginning. The end of the image is no transition. `area` gets the number of pixels of the
 * mask. `box` gets x0, y0, x1, y1, exclusive at the end; four zeros for an empty mask.
 *
 * Returns the number of transitions, of which at most `capacity` are written, or -1 when memory runs out.
 */
EDGESAM_API int64_t edgesam_mask_transitions(const float *logits, const edgesam_axis *rows, const edgesam_axis *columns,
                                             int64_t capacity, uint32_t *transitions, int64_t *area, int32_t box[4]);

/* Draws the pixels inside the box of a mask that is not empty, row by row; 1 in the mask. `height` is that of the
 * image. */
EDGESAM_API void edgesam_mask_pixels(const uint32_t *transitions, int64_t count, int32_t height, const int32_t box[4],
                                     uint8_t *pixels);

#endif
