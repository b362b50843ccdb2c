/* Resize of images to the planes of the encoder's input.
 *
 * A strip of rows is transposed, so that a vector holds one column of it and a weight is the same in all lanes. Its
 * resized rows go into a ring of rows, which stays in the processor's cache. A target row is written when the ring has
 * its last source row.
 */
#include "resize.h"

#include <stdlib.h>

#include "resize_strip.h"

/* strip (width, STRIP) = the source rows from `row` on; the last one is repeated. */
static void load_strip(const edgesam_resize_band *band, int row, int last, uint32_t *strip)
{
    const uint32_t *from[STRIP];
    for (int i = 0; i < STRIP; i++)
        from[i] = band->pixels + (int64_t)((row + i < last ? row + i : last) - band->top) * band->width;
    int x = 0;
    for (; x + 4 <= band->width; x += 4)
        for (int i = 0; i < STRIP; i += 4) {
            v4u rows[4], columns[4];
            for (int k = 0; k < 4; k++)
                rows[k] = *(const v4u *)(from[i + k] + x);
            transpose(rows, columns);
            for (int k = 0; k < 4; k++)
                *(v4u *)(strip + (int64_t)(x + k) * STRIP + i) = columns[k];
        }
    for (; x < band->width; x++)
        for (int i = 0; i < STRIP; i++)
            strip[(int64_t)x * STRIP + i] = from[i][x];
}

static int resize(const resize_kind *kind, const edgesam_resize_band *band, const edgesam_resize_axis *rows,
                  const edgesam_resize_axis *columns)
{
    const int64_t stride = (columns->length + VL - 1) / VL * VL, row_bytes = stride * kind->sample_bytes;
    const int capacity = rows->taps + STRIP; /* a new strip replaces no row that the next target row needs */
    const int first = rows->first[band->begin], last = rows->first[band->end - 1] + rows->taps - 1;
    uint32_t *strip = malloc((size_t)band->width * STRIP * sizeof *strip);
    char *ring = malloc((size_t)capacity * row_bytes);
    const void **from = malloc((size_t)rows->taps * sizeof *from);
    const int status = strip && ring && from ? 0 : -1;
    int loaded = first;
    for (int row = band->begin; status == 0 && row < band->end; row++) {
        for (; loaded < rows->first[row] + rows->taps; loaded += STRIP) {
            void *to[STRIP];
            for (int i = 0; i < STRIP; i++)
                to[i] = ring + (loaded + i - first) % capacity * row_bytes;
            load_strip(band, loaded, last, strip);
            kind->columns(strip, columns, stride, to);
        }
        for (int tap = 0; tap < rows->taps; tap++)
            from[tap] = ring + (rows->first[row] + tap - first) % capacity * row_bytes;
        kind->row(from, rows, band, row, columns->length, stride);
    }
    free(strip);
    free(ring);
    free(from);
    return status;
}

EDGESAM_API int edgesam_resize_levels(const edgesam_resize_band *band, const edgesam_resize_axis *rows,
                                      const edgesam_resize_axis *columns)
{
    return resize(&resize_levels, band, rows, columns);
}

EDGESAM_API int edgesam_resize_floats(const edgesam_resize_band *band, const edgesam_resize_axis *rows,
                                      const edgesam_resize_axis *columns)
{
    return resize(&resize_floats, band, rows, columns);
}
