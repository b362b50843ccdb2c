/* The passes of a resize that does not round to grey levels. Rows hold three planes of float32; sums are in double. */

/* A fused multiplication and addition rounds once where Pillow rounds twice. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include <string.h>

#include "resize_strip.h"

enum { CHANNELS = 3, LANES = VL / 2 }; /* lanes of a vector of doubles */

typedef int32_t vi_half __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float vf_half __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(LANES * 8), aligned(8), may_alias));

static void resize_columns(const uint32_t *strip, const edgesam_resize_axis *columns, int64_t stride, void *const *rows)
{
    float block[CHANNELS][4][STRIP] __attribute__((aligned(64)));
    for (int x = 0; x < columns->length; x += 4) {
        for (int k = 0; k < 4; k++) {
            const int column = x + k < columns->length ? x + k : columns->length - 1;
            const uint32_t *from = strip + (int64_t)columns->first[column] * STRIP;
            const double *weights = (const double *)columns->weights + (int64_t)column * columns->taps;
            for (int lane = 0; lane < STRIP; lane += LANES) {
                vd red = {0}, green = {0}, blue = {0};
                for (int tap = 0; tap < columns->taps; tap++) {
                    const vi_half levels = *(const vi_half *)(from + tap * STRIP + lane);
                    red += __builtin_convertvector(levels & 255, vd) * weights[tap];
                    green += __builtin_convertvector(levels >> 8 & 255, vd) * weights[tap];
                    blue += __builtin_convertvector(levels >> 16 & 255, vd) * weights[tap];
                }
                *(vf_half *)(block[0][k] + lane) = __builtin_convertvector(red, vf_half);
                *(vf_half *)(block[1][k] + lane) = __builtin_convertvector(green, vf_half);
                *(vf_half *)(block[2][k] + lane) = __builtin_convertvector(blue, vf_half);
            }
        }
        for (int channel = 0; channel < CHANNELS; channel++)
            for (int i = 0; i < STRIP; i += 4) {
                v4u in[4], out[4];
                for (int k = 0; k < 4; k++)
                    in[k] = *(v4u *)(block[channel][k] + i);
                transpose(in, out);
                for (int k = 0; k < 4; k++)
                    *(v4u *)((float *)rows[i + k] + channel * stride + x) = out[k];
            }
    }
}

static void resize_row(const void *const *from, const edgesam_resize_axis *rows, const edgesam_resize_band *band,
                       int row, int width, int64_t stride)
{
    const double *weights = (const double *)rows->weights + (int64_t)row * rows->taps;
    const int64_t plane = (int64_t)band->side * band->side;
    for (int channel = 0; channel < CHANNELS; channel++) {
        float *to = band->planes + channel * plane + (int64_t)row * band->side;
        for (int x = 0; x < width; x += LANES) {
            vd sum = {0};
            for (int tap = 0; tap < rows->taps; tap++) {
                const vf_half level = *(const vf_half *)((const float *)from[tap] + channel * stride + x);
                sum += __builtin_convertvector(level, vd) * weights[tap];
            }
            const vf_half level = __builtin_convertvector(sum, vf_half);
            const vf_half normalised = (level - band->mean[channel]) / band->std[channel];
            if (x + LANES <= width)
                *(vf_half *)(to + x) = normalised;
            else
                memcpy(to + x, &normalised, (width - x) * sizeof *to);
        }
    }
}

const resize_kind resize_floats = {CHANNELS * sizeof(float), resize_columns, resize_row};
