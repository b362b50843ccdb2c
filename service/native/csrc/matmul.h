/* Matrix products: C = C0 + A · B for a few rows at a time, with C held in registers.
 *
 * A is read number by number, with rows `ar` and columns `ak` floats apart, so that a transposed A costs nothing. B, C0
 * and C are read in vectors along their rows, which are `ldb`, `ld0` and `ldc` floats apart. C0 may be C itself, or one
 * row for all (`ld0` 0). The number of columns is a multiple of 8. A B that does not fit the first-level cache is best
 * cut into contiguous panels of PANEL columns.
 */
#ifndef EDGESAM_MATMUL_H
#define EDGESAM_MATMUL_H

#include "vector.h"

#define PANEL 64

/* Rows and vectors of C at a time: as many as leave room for B in the registers. AVX2 has 16 of them, the others 32. */
#define TILE_ROWS 6
#define TILE_VECTORS (VL == 8 ? 2 : 4)

/* `eight`: eight more columns, which are half a vector where vectors have 16 lanes. */
INLINE void tile(int rows, int vectors, int eight, int depth, const float *a, long ar, long ak, const float *b,
                 long ldb, const float *c0, long ld0, float *c, long ldc)
{
    vf sum[TILE_ROWS][TILE_VECTORS];
    vh last[TILE_ROWS];
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vectors; j++)
            sum[i][j] = load(c0 + i * ld0 + j * VL);
        if (eight)
            last[i] = load_vh(c0 + i * ld0 + vectors * VL);
    }
    for (int k = 0; k < depth; k++) {
        vf row[TILE_VECTORS];
        vh end = {0};
        for (int j = 0; j < vectors; j++)
            row[j] = load(b + k * ldb + j * VL);
        if (eight)
            end = load_vh(b + k * ldb + vectors * VL);
        for (int i = 0; i < rows; i++) {
            float factor = a[i * ar + k * ak];
            for (int j = 0; j < vectors; j++)
                sum[i][j] += factor * row[j];
            if (eight)
                last[i] += factor * end;
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vectors; j++)
            store(c + i * ldc + j * VL, sum[i][j]);
        if (eight)
            store_vh(c + i * ldc + vectors * VL, last[i]);
    }
}

/* The compiler must see these as constants to keep the sums in registers. */
#define ROWS_CASE(n) case n: tile(n, vectors, eight, depth, a, ar, ak, b, ldb, c0, ld0, c, ldc); break;
#define COLUMNS_CASE(n) case n: strip(n / VL, n % VL / 8, rows, depth, a, ar, ak, b, ldb, c0, ld0, c, ldc); break;

INLINE void strip(int vectors, int eight, int rows, int depth, const float *a, long ar, long ak, const float *b,
                  long ldb, const float *c0, long ld0, float *c, long ldc)
{
    for (; rows >= TILE_ROWS; rows -= TILE_ROWS, a += TILE_ROWS * ar, c0 += TILE_ROWS * ld0, c += TILE_ROWS * ldc)
        tile(TILE_ROWS, vectors, eight, depth, a, ar, ak, b, ldb, c0, ld0, c, ldc);
    switch (rows) { ROWS_CASE(1) ROWS_CASE(2) ROWS_CASE(3) ROWS_CASE(4) ROWS_CASE(5) }
}

/* C (rows, columns) = C0 + A (rows, depth) · B (depth, columns). */
static __attribute__((noinline)) void multiply(int rows, int columns, int depth, const float *a, long ar, long ak,
                                               const float *b, long ldb, const float *c0, long ld0, float *c, long ldc)
{
    const int width = TILE_VECTORS * VL;
    for (; columns >= width; columns -= width, b += width, c0 += width, c += width)
        strip(TILE_VECTORS, 0, rows, depth, a, ar, ak, b, ldb, c0, ld0, c, ldc);
    switch (columns) {
        COLUMNS_CASE(8)
#if VL == 16
        COLUMNS_CASE(16) COLUMNS_CASE(24) COLUMNS_CASE(32) COLUMNS_CASE(40) COLUMNS_CASE(48) COLUMNS_CASE(56)
#endif
    }
}

/* The same with B cut into panels of PANEL columns, each (depth, PANEL). */
static inline void multiply_panels(int rows, int columns, int depth, const float *a, long ar, long ak,
                                   const float *panels, const float *c0, long ld0, float *c, long ldc)
{
    for (int start = 0; start < columns; start += PANEL)
        multiply(rows, PANEL, depth, a, ar, ak, panels + (long)start * depth, PANEL, c0 + start, ld0, c + start, ldc);
}

#undef ROWS_CASE
#undef COLUMNS_CASE

#endif
