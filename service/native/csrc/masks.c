/* See masks.h. The whole takes a tenth of a millisecond for a picture of 2 megapixels: it computes the pixels of the
 * windows that hold logits of both signs, and skips over all the others. */
#include "masks.h"

#include <stdlib.h>
#include <string.h>

enum { SIDE = EDGESAM_MASK_SIZE, WINDOWS = EDGESAM_MASK_SIZE - EDGESAM_TAPS + 1, WORD = sizeof(uint64_t) };

/* Flags of one byte each are compared eight at a time; the lowest address has to be the lowest byte. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "masks.c needs a little-endian processor");

/* From the first to behind the last. */
typedef struct {
    int first, end;
} span;

/* The way through the pixels, and the runs of the mask on it. */
typedef struct {
    uint32_t *turns;
    int64_t capacity, count, area;
    int32_t height, x, entered_x, entered_y;
    int32_t x0, y0, x1, y1;
    int is_inside;
} walk;

/* The mask begins or ends before row y of the current column. */
static void turn(walk *w, int32_t y)
{
    if (w->count < w->capacity)
        w->turns[w->count] = (uint32_t)((int64_t)w->x * w->height + y);
    w->count++;
    w->is_inside = !w->is_inside;
    if (w->is_inside) {
        w->entered_x = w->x;
        w->entered_y = y;
        return;
    }
    w->area += (int64_t)(w->x - w->entered_x) * w->height + y - w->entered_y;
    int32_t right = w->x, bottom = y;
    if (y == 0) { /* it ended with the column before */
        right--;
        bottom = w->height;
    }
    int32_t top = w->entered_y;
    if (right > w->entered_x) { /* it went through the bottom of a column to the top of the next */
        top = 0;
        bottom = w->height;
    }
    w->x0 = w->entered_x < w->x0 ? w->entered_x : w->x0;
    w->y0 = top < w->y0 ? top : w->y0;
    w->x1 = right + 1 > w->x1 ? right + 1 : w->x1;
    w->y1 = bottom > w->y1 ? bottom : w->y1;
}

/* From row y on the pixels are all of the mask, or none is. */
static void pixels_are(walk *w, int is_mask, int32_t y)
{
    if (is_mask != w->is_inside)
        turn(w, y);
}

/* Where in [at, at + 8) a flag differs from the one behind it: a byte that is not 0. */
static uint64_t differences(const uint8_t *flags, int at)
{
    uint64_t here, next;
    memcpy(&here, flags + at, WORD);
    memcpy(&next, flags + at + 1, WORD);
    return here ^ next;
}

/* Rows [top, bottom): pixel y is flags[y + 1]. Eight flags behind the last one are read and may be anything. */
static void walk_pixels(walk *w, uint8_t *flags, int top, int bottom)
{
    flags[top] = (uint8_t)w->is_inside;
    for (int at = top; at < bottom; at += WORD)
        for (uint64_t found = differences(flags, at); found; found &= found - 1) {
            int y = at + __builtin_ctzll(found) / 8;
            if (y >= bottom)
                return;
            turn(w, y);
        }
}

/* One column: `column` are its logits, `is_positive` their flags. Windows outside `windows` hold no positive logit. */
static void walk_column(walk *w, const edgesam_axis *rows, span windows, const float *column,
                        const uint8_t *is_positive, uint8_t *flags)
{
    const float *a = rows->weights, *b = a + rows->length, *c = b + rows->length;
    const int32_t *starts = rows->starts;
    const int last = windows.end + EDGESAM_TAPS - 2; /* the last logit of a window */
    int next = windows.first;                        /* the first window whose pixels are still to come */
    if (starts[next] > 0)
        pixels_are(w, 0, 0);
    for (int at = windows.first; at < last; at += WORD)
        for (uint64_t found = differences(is_positive, at); found; found &= found - 1) {
            int change = at + __builtin_ctzll(found) / 8; /* between this logit and the next */
            if (change >= last)
                break;
            int mixed = change - 1 > next ? change - 1 : next, end = change + 1 < windows.end ? change + 1 : windows.end;
            if (starts[mixed] > starts[next])
                pixels_are(w, is_positive[next], starts[next]);
            if (end <= mixed)
                continue;
            const int top = starts[mixed];
            for (int window = mixed; window < end; window++) {
                const float u = column[window], v = column[window + 1], t = column[window + 2];
                for (int y = starts[window]; y < starts[window + 1]; y++)
                    flags[y + 1] = a[y] * u + b[y] * v + c[y] * t > 0.0f;
            }
            walk_pixels(w, flags, top, starts[end]);
            next = end;
        }
    if (starts[windows.end] > starts[next])
        pixels_are(w, is_positive[next], starts[next]);
    if (starts[windows.end] < rows->length)
        pixels_are(w, 0, starts[windows.end]);
}

/* The rows and columns with a positive logit; empty spans when there is none. */
static void find_positive(const float *logits, span *rows, span *columns)
{
    uint8_t any[SIDE] = {0};
    *rows = *columns = (span){0, 0};
    for (int y = 0; y < SIDE; y++) {
        uint8_t found = 0;
        for (int x = 0; x < SIDE; x++) {
            uint8_t is_positive = logits[y * SIDE + x] > 0.0f;
            any[x] |= is_positive;
            found |= is_positive;
        }
        if (!found)
            continue;
        if (rows->end == 0)
            rows->first = y;
        rows->end = y + 1;
    }
    for (int x = 0; x < SIDE; x++) {
        if (!any[x])
            continue;
        if (columns->end == 0)
            columns->first = x;
        columns->end = x + 1;
    }
}

/* The windows that hold some of these logits. */
static span windows_of(span logits)
{
    int first = logits.first - EDGESAM_TAPS + 1;
    return (span){first > 0 ? first : 0, logits.end < WINDOWS ? logits.end : WINDOWS};
}

int64_t edgesam_mask_transitions(const float *logits, const edgesam_axis *rows, const edgesam_axis *columns,
                           int64_t capacity, uint32_t *turns, int64_t *area, int32_t box[4])
{
    *area = 0;
    memset(box, 0, 4 * sizeof *box);
    span tall, wide;
    find_positive(logits, &tall, &wide);
    if (tall.end == 0)
        return 0;
    tall = windows_of(tall);
    wide = windows_of(wide);

    float *across = malloc(SIDE * SIDE * sizeof(float)); /* turned over: a column of the picture is a mean of its rows */
    uint8_t *flags = calloc(rows->length + 2 * WORD, 1);
    if (!across || !flags) {
        free(across);
        free(flags);
        return -1;
    }
    const int end = tall.end + EDGESAM_TAPS - 1;
    for (int x = wide.first; x < wide.end + EDGESAM_TAPS - 1; x++)
        for (int y = tall.first; y < end; y++)
            across[x * SIDE + y] = logits[y * SIDE + x];

    walk w = {.turns = turns, .capacity = capacity, .height = rows->length, .x0 = columns->length, .y0 = rows->length};
    const float *a = columns->weights, *b = a + columns->length, *c = b + columns->length;
    float column[SIDE];
    uint8_t is_positive[SIDE + 2 * WORD] = {0};
    for (w.x = columns->starts[wide.first]; w.x < columns->starts[wide.end]; w.x++) {
        const float *u = across + columns->first[w.x] * SIDE, *v = u + SIDE, *t = v + SIDE;
        for (int y = tall.first; y < end; y++)
            column[y] = a[w.x] * u[y] + b[w.x] * v[y] + c[w.x] * t[y];
        for (int y = tall.first; y < end; y++)
            is_positive[y] = column[y] > 0.0f;
        walk_column(&w, rows, tall, column, is_positive, flags);
    }
    free(across);
    free(flags);
    if (w.is_inside) {
        turn(&w, 0);
        if (w.x == columns->length)
            w.count--; /* the end of the picture */
    }
    if (w.area) {
        *area = w.area;
        box[0] = w.x0;
        box[1] = w.y0;
        box[2] = w.x1;
        box[3] = w.y1;
    }
    return w.count;
}

void edgesam_mask_pixels(const uint32_t *turns, int64_t count, int32_t height, const int32_t box[4], uint8_t *pixels)
{
    const int32_t x0 = box[0], y0 = box[1], width = box[2] - x0, rows = box[3] - y0;
    memset(pixels, 0, (size_t)width * rows);
    /* First only where a column changes, and in its first row what it begins with. */
    int64_t next = 0;
    for (int32_t x = 0; x < width; x++) {
        const int64_t top = (int64_t)(x0 + x) * height + y0;
        while (next < count && turns[next] <= top)
            next++;
        pixels[x] = next & 1;
        for (; next < count && turns[next] < top + rows; next++)
            pixels[(turns[next] - top) * width + x] = 1;
    }
    for (int64_t y = 1; y < rows; y++)
        for (int32_t x = 0; x < width; x++)
            pixels[y * width + x] ^= pixels[(y - 1) * width + x];
}
