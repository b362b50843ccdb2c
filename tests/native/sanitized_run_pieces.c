/* Pieces of noise, boards, rings, nothing and everything at sizes from one pixel on, with held pixels everywhere; run
 * under sanitizers. Fails when area or box are not those of the transitions, or when there are more transitions than before. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run_pieces.h"

static uint32_t random_number(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static int is_mask(int kind, int x, int y)
{
    switch (kind) {
    case 0:
        return random_number() % 2 == 0;
    case 1:
        return random_number() % 16 != 0;
    case 2:
        return (x + y) % 2 == 0;
    case 3:
        return fmodf(hypotf((float)x - 20.0f, (float)y - 30.0f), 12.0f) < 5.0f;
    default:
        return kind == 4;
    }
}

/* Returns whether area and box are those of the pixels between the transitions. */
static int is_measured(const uint32_t *transitions, int64_t count, int height, int width, int64_t area,
                       const int32_t box[4])
{
    int64_t found = 0, next = 0;
    int32_t x0 = width, y0 = height, x1 = 0, y1 = 0;
    for (int64_t i = 0; i < (int64_t)height * width; i++) {
        for (; next < count && transitions[next] <= i; next++)
            ;
        if (next % 2 == 0)
            continue;
        const int32_t x = (int32_t)(i / height), y = (int32_t)(i % height);
        found++;
        x0 = x < x0 ? x : x0;
        y0 = y < y0 ? y : y0;
        x1 = x + 1 > x1 ? x + 1 : x1;
        y1 = y + 1 > y1 ? y + 1 : y1;
    }
    if (found == 0)
        return area == 0 && !box[0] && !box[1] && !box[2] && !box[3];
    return found == area && x0 == box[0] && y0 == box[1] && x1 == box[2] && y1 == box[3];
}

static int check(int kind, int height, int width, int32_t held)
{
    const int64_t image_end = (int64_t)height * width;
    uint32_t *scratch = malloc(image_end * sizeof *scratch), *pixels = malloc(held * sizeof *pixels + 1);
    int64_t count = 0, area;
    int32_t box[4];
    for (int64_t i = 0; i < image_end; i++)
        if (is_mask(kind, (int)(i / height), (int)(i % height)) != count % 2)
            scratch[count++] = (uint32_t)i;
    uint32_t *transitions = malloc(count * sizeof *transitions); /* exactly: a write behind the end is found */
    if (count)
        memcpy(transitions, scratch, count * sizeof *transitions);
    for (int32_t i = 0; i < held; i++)
        pixels[i] = random_number() % (uint32_t)image_end;
    const edgesam_pixels marked = {pixels, held}, none = {NULL, 0};

    int64_t first = edgesam_filter_transitions(transitions, count, height, width, &marked, &marked, 0.1, &area, box);
    int is_right = first >= 0 && first <= count && is_measured(transitions, first, height, width, area, box);
    int64_t second = edgesam_filter_transitions(transitions, first, height, width, &none, &none, 0.1, &area, box);
    is_right &= second >= 0 && second <= first && is_measured(transitions, second, height, width, area, box);
    if (!is_right)
        fprintf(stderr, "kind %d, %d x %d, %d held: %ld, %ld and %ld transitions\n", kind, width, height, held,
                (long)count, (long)first, (long)second);
    free(scratch);
    free(pixels);
    free(transitions);
    return is_right;
}

int main(void)
{
    static const int sizes[][2] = {{1, 1}, {1, 300}, {300, 1}, {2, 2}, {3, 5}, {7, 200}, {200, 7}, {120, 150}};
    int is_right = 1;
    for (int kind = 0; kind < 6; kind++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int32_t held = 0; held <= 40; held += 20)
                is_right &= check(kind, sizes[i][0], sizes[i][1], held);
    return is_right ? 0 : 1;
}
