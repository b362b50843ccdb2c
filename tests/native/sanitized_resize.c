/* Resizes of one grey level at sizes from one pixel on, in one band and in several; run under sanitizers. Fails when a
 * pixel has another level, or when a pixel of the padding was written. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "resize.h"

enum { SIDE = 67, LEVEL = 201 };

/* The mean of the `taps` source samples at each target sample's place. */
static edgesam_resize_axis axis(int source, int target, int taps, int is_float)
{
    int32_t *first = malloc(target * sizeof *first);
    size_t size = is_float ? sizeof(double) : sizeof(int32_t);
    void *weights = malloc((size_t)target * taps * size);
    for (int i = 0; i < target; i++) {
        first[i] = (int32_t)((int64_t)i * (source - taps) / (target > 1 ? target - 1 : 1));
        for (int tap = 0; tap < taps; tap++)
            if (is_float)
                ((double *)weights)[i * taps + tap] = 1.0 / taps;
            else
                ((int32_t *)weights)[i * taps + tap] = (1 << 22) / taps;
    }
    return (edgesam_resize_axis){target, taps, first, weights};
}

static void release(edgesam_resize_axis a)
{
    free((void *)a.first);
    free((void *)a.weights);
}

static int check(const int size[2], const int target[2], int taps, int step, int is_float)
{
    static const float mean[3] = {1.0f, 2.0f, 3.0f}, std[3] = {2.0f, 4.0f, 8.0f};
    edgesam_resize_axis rows = axis(size[0], target[0], taps < size[0] ? taps : size[0], is_float);
    edgesam_resize_axis columns = axis(size[1], target[1], taps < size[1] ? taps : size[1], is_float);
    float *planes = calloc(3 * SIDE * SIDE, sizeof *planes);
    int is_right = 1;
    for (int begin = 0; begin < target[0]; begin += step) {
        int end = begin + step < target[0] ? begin + step : target[0];
        int top = rows.first[begin], bottom = rows.first[end - 1] + rows.taps;
        size_t count = (size_t)(bottom - top) * size[1];
        uint32_t *pixels = malloc(count * sizeof *pixels); /* exactly: a read behind the end is found */
        for (size_t i = 0; i < count; i++)
            pixels[i] = 0xff000000u | LEVEL << 16 | LEVEL << 8 | LEVEL;
        edgesam_resize_band band = {pixels, size[1], top, begin, end, mean, std, planes, SIDE};
        is_right &= (is_float ? edgesam_resize_floats : edgesam_resize_levels)(&band, &rows, &columns) == 0;
        free(pixels);
    }
    for (int i = 0; i < 3 * SIDE * SIDE; i++) {
        int channel = i / (SIDE * SIDE), row = i / SIDE % SIDE, column = i % SIDE;
        float level = (LEVEL - mean[channel]) / std[channel];
        float expected = row < target[0] && column < target[1] ? level : 0.0f;
        is_right &= fabsf(planes[i] - expected) < 1e-4f;
    }
    if (!is_right)
        fprintf(stderr, "%d x %d to %d x %d, %d taps, %d rows a band\n", size[1], size[0], target[1], target[0], taps, step);
    free(planes);
    release(rows);
    release(columns);
    return is_right;
}

int main(void)
{
    static const int sizes[][2] = {{1, 1}, {1, 300}, {300, 1}, {3, 5}, {40, 70}, {129, 64}, {200, 333}};
    static const int targets[][2] = {{1, 1}, {SIDE, SIDE}, {1, SIDE}, {SIDE, 1}, {31, 66}, {17, 3}};
    static const int taps[] = {1, 2, 40}, steps[] = {7, SIDE};
    int is_right = 1;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t t = 0; t < sizeof targets / sizeof *targets; t++)
            for (size_t n = 0; n < sizeof taps / sizeof *taps; n++)
                for (size_t b = 0; b < sizeof steps / sizeof *steps; b++)
                    for (int is_float = 0; is_float < 2; is_float++)
                        is_right &= check(sizes[s], targets[t], taps[n], steps[b], is_float);
    return is_right ? 0 : 1;
}
