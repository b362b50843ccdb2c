/* See pieces.h. Runs of cells along the rows are joined by union-find, so the time follows the outline, not the area. */
#include "pieces.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "masks.h"

enum { SIDE = EDGESAM_MASK_SIZE, WORD = sizeof(uint64_t), MOST_RUNS = SIDE * SIDE / 2 };

/* Flags of one byte each are compared eight at a time; the lowest address has to be the lowest byte. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pieces.c needs a little-endian processor");

/* A run of cells of one row: from `start` up to but not including `end`. What follows `parent` belongs to its piece and
 * is kept at the piece's root. */
typedef struct {
    int32_t parent;
    int16_t start, end;
    int32_t area;
    uint8_t is_held, is_rejected, is_at_border;
} run;

/* The runs of all rows on one side of the mask. */
typedef struct {
    run *runs;
    int32_t first_of[SIDE + 1]; /* the first run of each row; the last entry is their number */
    int32_t rows, columns;
    int is_inside;
} side;

static int32_t root_of(run *runs, int32_t i)
{
    while (runs[i].parent != i) {
        runs[i].parent = runs[runs[i].parent].parent;
        i = runs[i].parent;
    }
    return i;
}

/* Finds the runs of one row; returns their number. */
static int32_t find_runs(const float *logits, int32_t columns, int is_inside, run *found)
{
    /* One flag before the first cell, and zeros behind the last one: both belong to no run. */
    uint8_t flags[SIDE + 2 * WORD] = {0};
    for (int32_t x = 0; x < columns; x++)
        flags[x + 1] = (logits[x] > 0.0f) == is_inside;
    int32_t count = 0, is_open = 0;
    for (int32_t at = 0; at <= columns; at += WORD) {
        uint64_t here, next;
        memcpy(&here, flags + at, WORD);
        memcpy(&next, flags + at + 1, WORD);
        for (uint64_t changes = here ^ next; changes; changes &= changes - 1) {
            int16_t x = (int16_t)(at + __builtin_ctzll(changes) / 8);
            if (is_open)
                found[count++].end = x;
            else
                found[count].start = x;
            is_open = !is_open;
        }
    }
    return count;
}

/* Joins the runs of two neighbouring rows that share a side. */
static void join_rows(run *runs, int32_t above, int32_t below, int32_t end)
{
    const int32_t middle = below;
    while (above < middle && below < end) {
        if (runs[above].start < runs[below].end && runs[below].start < runs[above].end)
            runs[root_of(runs, below)].parent = root_of(runs, above);
        if (runs[above].end < runs[below].end)
            above++;
        else
            below++;
    }
}

/* Finds the pieces on one side of the mask. */
static void find_pieces(side *s, const float *logits)
{
    int32_t count = 0;
    for (int32_t y = 0; y < s->rows; y++) {
        s->first_of[y] = count;
        int32_t end = count + find_runs(logits + y * SIDE, s->columns, s->is_inside, s->runs + count);
        for (int32_t i = count; i < end; i++) {
            run *r = s->runs + i;
            int at_border = y == 0 || y == s->rows - 1 || r->start == 0 || r->end == s->columns;
            *r = (run){.parent = i, .start = r->start, .end = r->end, .is_at_border = (uint8_t)at_border};
        }
        if (y > 0)
            join_rows(s->runs, s->first_of[y - 1], count, end);
        count = end;
    }
    s->first_of[s->rows] = count;
    for (int32_t i = 0; i < count; i++) {
        run *root = s->runs + root_of(s->runs, i);
        root->area += s->runs[i].end - s->runs[i].start;
        root->is_at_border |= s->runs[i].is_at_border;
    }
}

/* Returns the root of the piece that holds a cell; NULL when the cell lies on the other side, or in no image. */
static run *piece_at(side *s, int32_t cell)
{
    const int32_t y = cell / SIDE, x = cell % SIDE;
    if (cell < 0 || y >= s->rows)
        return NULL;
    for (int32_t i = s->first_of[y]; i < s->first_of[y + 1]; i++)
        if (s->runs[i].start <= x && x < s->runs[i].end)
            return s->runs + root_of(s->runs, i);
    return NULL;
}

static void mark(side *s, const edgesam_cells *held, const edgesam_cells *rejected)
{
    for (int32_t i = 0; i < held->count; i++) {
        run *piece = piece_at(s, held->cells[i]);
        if (piece)
            piece->is_held = 1;
    }
    for (int32_t i = 0; i < rejected->count; i++) {
        run *piece = piece_at(s, rejected->cells[i]);
        if (piece)
            piece->is_rejected = 1;
    }
}

/* Moves the cells of a run to the other side. */
static void flip(float *row, const run *r, int is_inside, float least)
{
    for (int32_t x = r->start; x < r->end; x++) {
        float size = fmaxf(fabsf(row[x]), least);
        row[x] = is_inside ? -size : size;
    }
}

int32_t edgesam_filter_pieces(float *logits, int32_t rows, int32_t columns, const edgesam_cells *held,
                              const edgesam_cells *rejected, double small_share, double rejected_share, float least)
{
    side s = {.runs = malloc(MOST_RUNS * sizeof(run)), .rows = rows, .columns = columns};
    if (!s.runs)
        return -1;
    int32_t largest = 0;
    for (s.is_inside = 1; s.is_inside >= 0; s.is_inside--) {
        find_pieces(&s, logits);
        mark(&s, held, rejected);
        if (s.is_inside)
            for (int32_t i = 0; i < s.first_of[rows]; i++)
                largest = s.runs[i].area > largest ? s.runs[i].area : largest;
        for (int32_t y = 0; y < rows; y++)
            for (int32_t i = s.first_of[y]; i < s.first_of[y + 1]; i++) {
                const run *piece = s.runs + root_of(s.runs, i);
                double share = piece->is_rejected && s.is_inside ? rejected_share : small_share;
                int stays = piece->is_held || (piece->is_at_border && !s.is_inside) || piece->area >= share * largest;
                if (!stays)
                    flip(logits + y * SIDE, s.runs + i, s.is_inside, least);
            }
    }
    free(s.runs);
    return 0;
}
