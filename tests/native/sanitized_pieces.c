/* Pieces of noise, boards, discs, nothing and everything in parts of any size, with marked cells everywhere; run under
 * sanitizers. Fails when a cell of the padding or a logit of a plain disc was changed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pieces.h"

enum { SIDE = 256, CELLS = SIDE * SIDE };

static float noise(void)
{
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 24) - 0.5f;
}

static int check(const float *logits, int rows, int columns, int32_t marked, int is_plain)
{
    float *filtered = malloc(CELLS * sizeof *filtered);
    int32_t *flat = malloc(marked * sizeof *flat + 1);
    for (int32_t i = 0; i < marked; i++)
        flat[i] = (int32_t)(((int64_t)i * 7919) % CELLS);
    edgesam_cells cells = {flat, marked}, none = {NULL, 0};
    memcpy(filtered, logits, CELLS * sizeof *filtered);
    int failed = edgesam_filter_pieces(filtered, rows, columns, &none, &cells, 0.1, 0.25, 0.1f);
    failed |= edgesam_filter_pieces(filtered, rows, columns, &cells, &cells, 0.1, 0.25, 0.1f);
    int changed = 0;
    for (int i = 0; i < CELLS; i++)
        changed += (is_plain || i / SIDE >= rows || i % SIDE >= columns) && filtered[i] != logits[i];
    free(filtered);
    free(flat);
    if (failed || changed)
        fprintf(stderr, "%d x %d, %d marks: %d, %d cells changed\n", columns, rows, marked, failed, changed);
    return !(failed || changed);
}

int main(void)
{
    static const int parts[][2] = {{1, 1}, {1, 256}, {256, 1}, {3, 5}, {7, 255}, {192, 256}, {256, 256}};
    float *logits = malloc(CELLS * sizeof *logits); /* exactly: a read behind the end is found */
    int is_right = 1;
    for (int kind = 0; kind < 6; kind++) {
        for (int i = 0; i < CELLS; i++) {
            int y = i / SIDE, x = i % SIDE;
            float r = hypotf((float)y - 120.0f, (float)x - 90.0f);
            logits[i] = kind == 0   ? noise()
                        : kind == 1 ? 40.0f - r
                        : kind == 2 ? r - 40.0f
                        : kind == 3 ? ((x + y) % 2 ? 1.0f : -1.0f)
                        : kind == 4 ? -1.0f
                                    : 1.0f;
        }
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            for (int32_t marked = 0; marked <= 600; marked += 300)
                is_right &= check(logits, parts[i][0], parts[i][1], marked, kind == 1);
    }
    free(logits);
    return is_right ? 0 : 1;
}
