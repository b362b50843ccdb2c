/* What both kinds of resize share: strips of transposed rows, and the ring of resized rows. */
#ifndef EDGESAM_RESIZE_STRIP_H
#define EDGESAM_RESIZE_STRIP_H

#include "resize.h"
#include "vector.h"

/* Rows that are transposed together: at least the lanes of a vector, and whole blocks of 4. */
enum { STRIP = VL > 8 ? VL : 8 };

typedef uint32_t v4u __attribute__((vector_size(16), aligned(4), may_alias));

/* One of the two kinds of resize. */
typedef struct {
    int sample_bytes; /* of a column in a resized row */
    /* Resizes the columns of a strip (width, STRIP) to the rows. It may write up to VL columns more. */
    void (*columns)(const uint32_t *strip, const edgesam_resize_axis *, int64_t stride, void *const *rows);
    /* Writes a target row, from its source rows: rows->taps pointers. */
    void (*row)(const void *const *from, const edgesam_resize_axis *rows, const edgesam_resize_band *, int row,
                int width, int64_t stride);
} resize_kind;

extern const resize_kind resize_levels, resize_floats;

INLINE void transpose(const v4u in[4], v4u out[4])
{
    v4u low = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
    v4u high = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
    out[0] = __builtin_shufflevector(low, high, 0, 1, 4, 5);
    out[1] = __builtin_shufflevector(low, high, 2, 3, 6, 7);
    low = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
    high = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
    out[2] = __builtin_shufflevector(low, high, 0, 1, 4, 5);
    out[3] = __builtin_shufflevector(low, high, 2, 3, 6, 7);
}

#endif
