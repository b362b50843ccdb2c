/* Masks of noise, discs, nothing and everything at sizes from one pixel on, drawn again from their transitions; run under
 * sanitizers. Fails when the drawn pixels are not as many as the area says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "masks.h"

enum { SIDE = EDGESAM_MASK_SIZE, WINDOWS = SIDE - EDGESAM_TAPS + 1 };

static float noise(void)
{
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 24) - 0.5f;
}

/* As if the image filled the frame: windows rise evenly, and each pixel is the mean of its three logits. */
static edgesam_axis axis(int length)
{
    int32_t *first = malloc(length * sizeof *first), *starts = malloc((WINDOWS + 1) * sizeof *starts);
    float *weights = malloc(3 * length * sizeof *weights);
    int window = 0;
    for (int i = 0; i < length; i++) {
        first[i] = (int32_t)((int64_t)i * (WINDOWS - 1) / (length > 1 ? length - 1 : 1));
        while (window <= first[i])
            starts[window++] = i;
        for (int tap = 0; tap < EDGESAM_TAPS; tap++)
            weights[tap * length + i] = 1.0f / EDGESAM_TAPS;
    }
    while (window <= WINDOWS)
        starts[window++] = length;
    return (edgesam_axis){length, first, weights, starts};
}

static void release(edgesam_axis a)
{
    free((void *)a.first);
    free((void *)a.weights);
    free((void *)a.starts);
}

static int check(const float *logits, int height, int width)
{
    edgesam_axis rows = axis(height), columns = axis(width);
    int64_t area;
    int32_t box[4];
    int64_t count = edgesam_mask_transitions(logits, &rows, &columns, 0, NULL, &area, box);
    uint32_t *transitions = malloc((count + 1) * sizeof *transitions);
    int64_t again = edgesam_mask_transitions(logits, &rows, &columns, count, transitions, &area, box);
    int64_t pixels = (int64_t)(box[2] - box[0]) * (box[3] - box[1]), drawn = 0;
    if (pixels) {
        uint8_t *mask = malloc(pixels);
        edgesam_mask_pixels(transitions, count, height, box, mask);
        for (int64_t i = 0; i < pixels; i++)
            drawn += mask[i];
        free(mask);
    }
    free(transitions);
    release(rows);
    release(columns);
    if (count < 0 || again != count || drawn != area) {
        fprintf(stderr, "%d x %d: %ld and %ld transitions, %ld pixels of %ld\n", width, height, (long)count, (long)again,
                (long)drawn, (long)area);
        return 0;
    }
    return 1;
}

int main(void)
{
    static const int sizes[][2] = {{1, 1}, {1, 2048}, {2048, 1}, {3, 5}, {7, 300}, {254, 255}, {600, 800}};
    float *logits = malloc(SIDE * SIDE * sizeof *logits); /* exactly: a read behind the end is found */
    int is_right = 1;
    for (int kind = 0; kind < 5; kind++) {
        for (int i = 0; i < SIDE * SIDE; i++) {
            float r = hypotf((float)(i / SIDE) - 120.0f, (float)(i % SIDE) - 90.0f);
            logits[i] = kind == 0 ? noise() : kind == 1 ? 40.0f - r : kind == 2 ? r - 40.0f : kind == 3 ? -1.0f : 1.0f;
        }
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            is_right &= check(logits, sizes[i][0], sizes[i][1]);
    }
    free(logits);
    return is_right ? 0 : 1;
}
