/* See masks.h. An image of 2 megapixels takes about a tenth of a millisecond: only the pixels of windows with logits of
 * both signs are computed. */
#include "masks.h"

#include <stdlib.h>
#include <string.h>

enum { SIDE = EDGESAM_MASK_SIZE, WINDOWS = EDGESAM_MASK_SIZE - EDGESAM_TAPS + 1, WORD = sizeof(uint64_t) };

/* Flags of one byte each are compared eight at a time; the lowest address has to be the lowest byte. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "masks.c needs a little-endian processor");

/* A range: from `first` up to but not including `end`. */
typedef struct {
    int first, end;
} span;

/* The state of a scan through the pixels, and the runs of the mask found so far. */
typedef struct {
    uint32_t *transitions;
    int64_t capacity, count, area;
    int32_t height, x, entered_x, entered_y;
    int32_t x0, y0, x1, y1;
    int is_inside;
} scan;

/* Notes that the mask begins or ends before row y of the current column. */
static void add_transition(scan *s, int32_t y)
{
    if (s->count < s->capacity)
        s->transitions[s->count] = (uint32_t)((int64_t)s->x * s->height + y);
    s->count++;
    s->is_inside = !s->is_inside;
    if (s->is_inside) {
        s->entered_x = s->x;
        s->entered_y = y;
        return;
    }
    s->area += (int64_t)(s->x - s->entered_x) * s->height + y - s->entered_y;
    int32_t right = s->x, bottom = y;
    if (y == 0) { /* the run ended with the column before */
        right--;
        bottom = s->height;
    }
    int32_t top = s->entered_y;
    if (right > s->entered_x) { /* the run went on from the bottom of a column to the top of the next */
        top = 0;
        bottom = s->height;
    }
    s->x0 = s->entered_x < s->x0 ? s->entered_x : s->x0;
    s->y0 = top < s->y0 ? top : s->y0;
    s->x1 = right + 1 > s->x1 ? right + 1 : s->x1;
    s->y1 = bottom > s->y1 ? bottom : s->y1;
}

/* From row y on all pixels belong to the mask, or none does. */
static void set_inside(scan *s, int is_mask, int32_t y)
{
    if (is_mask != s->is_inside)
        add_transition(s, y);
}

/* Returns a byte that is not 0 for each flag in [at, at + 8) that differs from the next flag. */
static uint64_t differences(const uint8_t *flags, int at)
{
    uint64_t here, next;
    memcpy(&here, flags + at, WORD);
    memcpy(&next, flags + at + 1, WORD);
    return here ^ next;
}

/* Scans rows [top, bottom), where pixel y is flags[y + 1]. The eight flags behind the last one are read as well; they
 * may have any value. */
static void scan_pixels(scan *s, uint8_t *flags, int top, int bottom)
{
    flags[top] = (uint8_t)s->is_inside;
    for (int at = top; at < bottom; at += WORD)
        for (uint64_t found = differences(flags, at); found; found &= found - 1) {
            int y = at + __builtin_ctzll(found) / 8;
            if (y >= bottom)
                return;
            add_transition(s, y);
        }
}

/* Scans one column, whose logits are `column` and whose flags are `is_positive`. Windows outside `windows` hold no
 * positive logit. */
static void scan_column(scan *s, const edgesam_axis *rows, span windows, const float *column,
                        const uint8_t *is_positive, uint8_t *flags)
{
    const float *a = rows->weights, *b = a + rows->length, *c = b + rows->length;
    const int32_t *starts = rows->starts;
    const int last = windows.end + EDGESAM_TAPS - 2; /* the last logit of a window */
    int next = windows.first;                        /* the first window whose pixels are not scanned yet */
    if (starts[next] > 0)
        set_inside(s, 0, 0);
    for (int at = windows.first; at < last; at += WORD)
        for (uint64_t found = differences(is_positive, at); found; found &= found - 1) {
            int change = at + __builtin_ctzll(found) / 8; /* between this logit and the next */
            if (change >= last)
                break;
            int mixed = change - 1 > next ? change - 1 : next;
            int end = change + 1 < windows.end ? change + 1 : windows.end;
            if (starts[mixed] > starts[next])
                set_inside(s, is_positive[next], starts[next]);
            if (end <= mixed)
                continue;
            const int top = starts[mixed];
            for (int window = mixed; window < end; window++) {
                const float u = column[window], v = column[window + 1], t = column[window + 2];
                for (int y = starts[window]; y < starts[window + 1]; y++)
                    flags[y + 1] = a[y] * u + b[y] * v + c[y] * t > 0.0f;
            }
            scan_pixels(s, flags, top, starts[end]);
            next = end;
        }
    if (starts[windows.end] > starts[next])
        set_inside(s, is_positive[next], starts[next]);
    if (starts[windows.end] < rows->length)
        set_inside(s, 0, starts[windows.end]);
}

/* Finds the rows and columns with a positive logit; empty spans when there is none. */
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

/* Returns the windows that hold some of these logits. */
static span windows_of(span logits)
{
    int first = logits.first - EDGESAM_TAPS + 1;
    return (span){first > 0 ? first : 0, logits.end < WINDOWS ? logits.end : WINDOWS};
}

int64_t edgesam_mask_transitions(const float *logits, const edgesam_axis *rows, const edgesam_axis *columns,
                           int64_t capacity, uint32_t *transitions, int64_t *area, int32_t box[4])
{
    *area = 0;
    memset(box, 0, 4 * sizeof *box);
    span tall, wide;
    find_positive(logits, &tall, &wide);
    if (tall.end == 0)
        return 0;
    tall = windows_of(tall);
    wide = windows_of(wide);

    float *across = malloc(SIDE * SIDE * sizeof(float)); /* transposed: a column of the image is a mean of its rows */
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

    scan s = {
        .transitions = transitions,
        .capacity = capacity,
        .height = rows->length,
        .x0 = columns->length,
        .y0 = rows->length,
    };
    const float *a = columns->weights, *b = a + columns->length, *c = b + columns->length;
    float column[SIDE];
    uint8_t is_positive[SIDE + 2 * WORD] = {0};
    for (s.x = columns->starts[wide.first]; s.x < columns->starts[wide.end]; s.x++) {
        const float *u = across + columns->first[s.x] * SIDE, *v = u + SIDE, *t = v + SIDE;
        for (int y = tall.first; y < end; y++)
            column[y] = a[s.x] * u[y] + b[s.x] * v[y] + c[s.x] * t[y];
        for (int y = tall.first; y < end; y++)
            is_positive[y] = column[y] > 0.0f;
        scan_column(&s, rows, tall, column, is_positive, flags);
    }
    free(across);
    free(flags);
    if (s.is_inside) {
        add_transition(&s, 0);
        if (s.x == columns->length)
            s.count--; /* the end of the image */
    }
    if (s.area) {
        *area = s.area;
        box[0] = s.x0;
        box[1] = s.y0;
        box[2] = s.x1;
        box[3] = s.y1;
    }
    return s.count;
}

void edgesam_mask_pixels(const uint32_t *transitions, int64_t count, int32_t height, const int32_t box[4],
                         uint8_t *pixels)
{
    const int32_t x0 = box[0], y0 = box[1], width = box[2] - x0, rows = box[3] - y0;
    memset(pixels, 0, (size_t)width * rows);
    /* First only the changes down each column, and in the first row its first pixel. */
    int64_t next = 0;
    for (int32_t x = 0; x < width; x++) {
        const int64_t top = (int64_t)(x0 + x) * height + y0;
        while (next < count && transitions[next] <= top)
            next++;
        pixels[x] = next & 1;
        for (; next < count && transitions[next] < top + rows; next++)
            pixels[(transitions[next] - top) * width + x] = 1;
    }
    for (int64_t y = 1; y < rows; y++)
        for (int32_t x = 0; x < width; x++)
            pixels[y * width + x] ^= pixels[(y - 1) * width + x];
}
