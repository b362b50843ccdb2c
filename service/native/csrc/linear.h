/* The small layers: affine maps, sums, norms. Sizes are multiples of VL. */
#ifndef EDGESAM_LINEAR_H
#define EDGESAM_LINEAR_H

#include <math.h>
#include <string.h>

#include "matmul.h"
#include "parameters.h"

INLINE int columns_of(const linear *l) { return (l->out + PANEL - 1) / PANEL * PANEL; }

/* out (rows, columns_of(l)) = in · weight + bias */
INLINE void apply(const linear *l, int rows, const float *in, float *out)
{
    int columns = columns_of(l);
    multiply_panels(rows, columns, l->in, in, l->in, 1, l->weight, l->bias, 0, out, columns);
}

INLINE void add(float *to, const float *from, long count)
{
    for (long i = 0; i < count; i += VL)
        store(to + i, load(to + i) + load(from + i));
}

/* Loads VL numbers of an array from number `i` on. */
INLINE vf load_numbers(edgesam_numbers array, long i)
{
    return array.float16 ? load_float16(array.float16 + i) : load(array.float32 + i);
}

/* Adds `count` numbers of an array from number `first` on. */
INLINE void add_numbers(float *to, edgesam_numbers from, long first, long count)
{
    if (from.float16)
        for (long i = 0; i < count; i += VL)
            store(to + i, load(to + i) + load_float16(from.float16 + first + i));
    else
        add(to, from.float32 + first, count);
}

/* The mean that LayerNorm subtracts, and the factor that it multiplies with. */
typedef struct {
    float mean, scale;
} moments;

INLINE moments measure(const float *x, int width, float epsilon)
{
    vf sum = {0}, squares = {0};
    for (int i = 0; i < width; i += VL)
        sum += load(x + i);
    float mean = sum_lanes(sum) / (float)width;
    for (int i = 0; i < width; i += VL) {
        vf centred = load(x + i) - mean;
        squares += centred * centred;
    }
    return (moments){mean, 1.0f / sqrtf(sum_lanes(squares) / (float)width + epsilon)};
}

/* LayerNorm of VL neighbours. */
INLINE vf normalised(const norm *n, moments m, const float *x, int i)
{
    return (load(x + i) - m.mean) * m.scale * load(n->weight + i) + load(n->bias + i);
}

#endif
