/* Resize of images to the planes of the encoder's input, with the filter of Pillow's BILINEAR. */
#ifndef EDGESAM_RESIZE_H
#define EDGESAM_RESIZE_H

#include "decoder.h"

/* One axis of a resize: target sample i is the sum of `taps` source samples from first[i] on, by its weights. */
typedef struct {
    int32_t length;       /* target samples */
    int32_t taps;         /* source samples of each target sample */
    const int32_t *first; /* (length), not decreasing, from 0 on; first[i] + taps is at most the source length */
    const void *weights;  /* (length, taps): int32 or double */
} edgesam_resize_axis;

/* A part of an image and where it is written. */
typedef struct {
    const uint32_t *pixels; /* (rows, width): red, green, blue and an unused byte in this order */
    int32_t width;
    int32_t top;        /* source row of pixels[0] */
    int32_t begin, end; /* target rows that are written; the source rows that they need are in `pixels` */
    const float *mean;  /* (3) */
    const float *std;   /* (3) */
    float *planes;      /* (3, side, side) */
    int32_t side;
} edgesam_resize_band;

/* Writes (level - mean) / std of the resized image to the left columns of target rows begin to end - 1.
 *
 * Weights are int32 in units of 2^-22; those of a sample sum to about 2^22 and are not negative. Both passes round to
 * whole grey levels, as Pillow does for images of 8 bits. Columns are resized first.
 *
 * Returns 0, or -1 when memory runs out. */
EDGESAM_API int edgesam_resize_levels(const edgesam_resize_band *, const edgesam_resize_axis *rows,
                                      const edgesam_resize_axis *columns);

/* The same with weights in double and without rounding to grey levels: sums are in double, and each pass rounds to
 * float32, as Pillow does for images of floats. */
EDGESAM_API int edgesam_resize_floats(const edgesam_resize_band *, const edgesam_resize_axis *rows,
                                      const edgesam_resize_axis *columns);

#endif
