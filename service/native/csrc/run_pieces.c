/* See run_pieces.h. Runs of pixels along the columns are joined by union-find, so the time follows the outline and the
 * width of the image, not the area. */
#include "run_pieces.h"

#include <stdlib.h>
#include <string.h>

/* A run of pixels of one column: from `start` up to but not including `end`. `area` and the flags belong to its piece
 * and are kept at the piece's root. */
typedef struct {
    uint32_t start, end, parent, area;
    uint8_t is_held, is_at_border;
} run;

/* The runs of all columns on one side of the mask. */
typedef struct {
    run *runs;
    int64_t count;
    int32_t height, width;
    int is_inside;
} side;

static uint32_t root_of(run *runs, uint32_t i)
{
    while (runs[i].parent != i) {
        runs[i].parent = runs[runs[i].parent].parent;
        i = runs[i].parent;
    }
    return i;
}

/* Finds the runs of one side. What goes on from the bottom of a column to the top of the next is two runs. */
static void find_runs(side *s, const uint32_t *transitions, int64_t count)
{
    const int64_t image_end = (int64_t)s->height * s->width;
    int64_t bottom = s->height; /* the end of the column */
    s->count = 0;
    for (int64_t i = s->is_inside ? 0 : -1; i < count; i += 2) {
        int64_t start = i < 0 ? 0 : transitions[i];
        const int64_t stop = i + 1 < count ? transitions[i + 1] : image_end;
        while (start < stop) {
            while (bottom <= start)
                bottom += s->height;
            const int64_t end = stop < bottom ? stop : bottom;
            const int at_border =
                bottom == s->height || bottom == image_end || start == bottom - s->height || end == bottom;
            s->runs[s->count] = (run){
                .start = (uint32_t)start,
                .end = (uint32_t)end,
                .parent = (uint32_t)s->count,
                .is_at_border = (uint8_t)at_border,
            };
            s->count++;
            start = end;
        }
    }
}

/* Joins the runs that share a side into pieces. Runs of neighbouring columns do where one, moved by a column, meets the
 * other. Those of one column never do. */
static void join_runs(side *s)
{
    run *runs = s->runs;
    for (int64_t left = 0, right = 0; right < s->count;) {
        const int64_t start = (int64_t)runs[left].start + s->height, end = (int64_t)runs[left].end + s->height;
        if (start < runs[right].end && runs[right].start < end)
            runs[root_of(runs, (uint32_t)right)].parent = root_of(runs, (uint32_t)left);
        if (end < runs[right].end)
            left++;
        else
            right++;
    }
    for (int64_t i = 0; i < s->count; i++) {
        run *root = runs + root_of(runs, (uint32_t)i);
        root->area += runs[i].end - runs[i].start;
        root->is_at_border |= runs[i].is_at_border;
    }
}

/* Marks the pieces that hold some of these pixels. */
static void hold(side *s, const edgesam_pixels *held)
{
    for (int32_t i = 0; i < held->count; i++) {
        const uint32_t pixel = held->pixels[i];
        int64_t low = 0, high = s->count; /* the first run behind the pixel lies between them */
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (s->runs[middle].start <= pixel)
                low = middle + 1;
            else
                high = middle;
        }
        if (low > 0 && pixel < s->runs[low - 1].end)
            s->runs[root_of(s->runs, (uint32_t)(low - 1))].is_held = 1;
    }
}

/* Writes the transitions of a mask from those runs of one side that stay on it; returns their number. Two transitions
 * at one position are none, so one is written only when the next is known. */
static int64_t write_transitions(side *s, double least, uint32_t *transitions)
{
    const int64_t none = -1, image_end = (int64_t)s->height * s->width;
    int64_t count = 0, last = s->is_inside ? none : 0; /* the mask begins at 0 unless a run outside does */
    for (int64_t i = 0; i < s->count; i++) {
        const run *piece = s->runs + root_of(s->runs, (uint32_t)i);
        if (!piece->is_held && !(piece->is_at_border && !s->is_inside) && piece->area < least)
            continue;
        const int64_t bounds[2] = {s->runs[i].start, s->runs[i].end};
        for (int k = 0; k < 2; k++) {
            if (last == bounds[k]) {
                last = none;
                continue;
            }
            if (last != none)
                transitions[count++] = (uint32_t)last;
            last = bounds[k];
        }
    }
    if (last != none && last < image_end)
        transitions[count++] = (uint32_t)last;
    return count;
}

/* Computes area and box of a mask from the runs inside it. `area` and `box` are zeros before. */
static void measure(const side *s, int64_t *area, int32_t box[4])
{
    int64_t top = 0; /* the first pixel of the column */
    int32_t x = 0;
    for (int64_t i = 0; i < s->count; i++) {
        const run *r = s->runs + i;
        for (; top + s->height <= r->start; x++)
            top += s->height;
        const int32_t y0 = (int32_t)(r->start - top), y1 = (int32_t)(r->end - top);
        if (i == 0) {
            box[0] = x;
            box[1] = y0;
        }
        *area += y1 - y0;
        box[1] = y0 < box[1] ? y0 : box[1];
        box[2] = x + 1;
        box[3] = y1 > box[3] ? y1 : box[3];
    }
}

int64_t edgesam_filter_transitions(uint32_t *transitions, int64_t count, int32_t height, int32_t width,
                                   const edgesam_pixels *positive, const edgesam_pixels *negative, double small_share,
                                   int64_t *area, int32_t box[4])
{
    *area = 0;
    memset(box, 0, 4 * sizeof *box);
    if (count == 0)
        return 0;
    /* No side has more runs: each is cut at most once for each column. The number of transitions does not rise. A run
     * over three columns or more is one piece, and a hole lies between the first and the last row. */
    side s = {.runs = malloc((size_t)(count / 2 + 1 + width) * sizeof(run)), .height = height, .width = width};
    if (!s.runs)
        return -1;
    uint32_t largest = 0;
    for (s.is_inside = 1; s.is_inside >= 0; s.is_inside--) {
        find_runs(&s, transitions, count);
        join_runs(&s);
        hold(&s, s.is_inside ? positive : negative);
        if (s.is_inside)
            for (int64_t i = 0; i < s.count; i++)
                largest = s.runs[i].area > largest ? s.runs[i].area : largest;
        count = write_transitions(&s, small_share * largest, transitions);
    }
    s.is_inside = 1;
    find_runs(&s, transitions, count);
    measure(&s, area, box);
    free(s.runs);
    return count;
}
