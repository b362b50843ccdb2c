/* The passes of a resize that rounds to grey levels, in the fixed-point numbers of Pillow. Rows hold pixels of 4 bytes. */
#include <string.h>

#include "resize_strip.h"

enum {
    PRECISION = 22, /* bits of a weight behind the point */
    HALF = 1 << (PRECISION - 1),
};

/* Sums of the three channels. They need no bound at 255: a pixel's weights would have to exceed 1 by 1/510. */
typedef struct {
    vi red, green, blue;
} level_sums;

INLINE level_sums no_levels(void)
{
    vi half = HALF - (vi){0};
    return (level_sums){half, half, half};
}

INLINE void add_levels(level_sums *sums, const uint32_t *pixels, int32_t weight)
{
    vi levels = *(const vi *)pixels;
    sums->red += (levels & 255) * weight;
    sums->green += (levels >> 8 & 255) * weight;
    sums->blue += (levels >> 16 & 255) * weight;
}

static void resize_columns(const uint32_t *strip, const edgesam_resize_axis *columns, int64_t stride, void *const *rows)
{
    (void)stride;
    uint32_t block[4][STRIP] __attribute__((aligned(64)));
    for (int x = 0; x < columns->length; x += 4) {
        for (int k = 0; k < 4; k++) {
            const int column = x + k < columns->length ? x + k : columns->length - 1;
            const uint32_t *from = strip + (int64_t)columns->first[column] * STRIP;
            const int32_t *weights = (const int32_t *)columns->weights + (int64_t)column * columns->taps;
            for (int lane = 0; lane < STRIP; lane += VL) {
                level_sums sums = no_levels();
                for (int tap = 0; tap < columns->taps; tap++)
                    add_levels(&sums, from + tap * STRIP + lane, weights[tap]);
                const vi red = sums.red >> PRECISION, green = sums.green >> PRECISION, blue = sums.blue >> PRECISION;
                *(vi *)(block[k] + lane) = red | green << 8 | blue << 16;
            }
        }
        for (int i = 0; i < STRIP; i += 4) {
            v4u in[4], out[4];
            for (int k = 0; k < 4; k++)
                in[k] = *(v4u *)(block[k] + i);
            transpose(in, out);
            for (int k = 0; k < 4; k++)
                *(v4u *)((uint32_t *)rows[i + k] + x) = out[k];
        }
    }
}

INLINE void write_levels(vi sums, float mean, float std, float *to, int count)
{
    const vf normalised = (__builtin_convertvector(sums >> PRECISION, vf) - mean) / std;
    if (count >= VL)
        store(to, normalised);
    else
        memcpy(to, &normalised, count * sizeof *to);
}

static void resize_row(const void *const *from, const edgesam_resize_axis *rows, const edgesam_resize_band *band,
                       int row, int width, int64_t stride)
{
    (void)stride;
    const int32_t *weights = (const int32_t *)rows->weights + (int64_t)row * rows->taps;
    const int64_t plane = (int64_t)band->side * band->side;
    float *to = band->planes + (int64_t)row * band->side;
    for (int x = 0; x < width; x += VL) {
        level_sums sums = no_levels();
        for (int tap = 0; tap < rows->taps; tap++)
            add_levels(&sums, (const uint32_t *)from[tap] + x, weights[tap]);
        write_levels(sums.red, band->mean[0], band->std[0], to + x, width - x);
        write_levels(sums.green, band->mean[1], band->std[1], to + plane + x, width - x);
        write_levels(sums.blue, band->mean[2], band->std[2], to + 2 * plane + x, width - x);
    }
}

const resize_kind resize_levels = {sizeof(uint32_t), resize_columns, resize_row};
