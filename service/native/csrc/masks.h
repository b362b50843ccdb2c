/* Masks at a picture's resolution from low-resolution logits, as run lengths or as pixels. */
#ifndef EDGESAM_MASKS_H
#define EDGESAM_MASKS_H

#include "decoder.h"

#define EDGESAM_MASK_SIZE 256
#define EDGESAM_TAPS 3

/* How the pixels along one axis of the picture come from logits: `Upsampling` of service/sam/transforms.py. */
typedef struct {
    int32_t length;
    const int32_t *first;  /* (length), first of the three logits that a pixel is the mean of; not decreasing */
    const float *weights;  /* (3, length), not negative, columns of sum 1 */
    const int32_t *starts; /* (255), the first pixel of the window of three logits that begins with each logit */
} edgesam_axis;

/* Where the mask begins and ends among the picture's pixels, taken column after column as COCO does.
 *
 * A pixel belongs to the mask when the mean of its 3 x 3 logits is above 0. turns: its places, rising, the first one a
 * beginning; the end of the picture is none. Returns their number, of which at most `capacity` are written, or -1: out
 * of memory. area: pixels of the mask. box: x0, y0, x1, y1, exclusive at the end; zeros when the mask is empty.
 */
EDGESAM_API int64_t edgesam_mask_transitions(const float *logits, const edgesam_axis *rows, const edgesam_axis *columns,
                                       int64_t capacity, uint32_t *turns, int64_t *area, int32_t box[4]);

/* The pixels inside the box, row by row, 1 where the mask is, of a mask that is not empty. height: of the picture. */
EDGESAM_API void edgesam_mask_pixels(const uint32_t *turns, int64_t count, int32_t height, const int32_t box[4],
                                     uint8_t *pixels);

#endif
