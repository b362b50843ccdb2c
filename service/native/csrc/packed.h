/* Numbers of 24 bits: float32 without the last 8 bits of the significand, rounded to nearest. The relative error is at
 * most 2^-16. A row of INNER numbers is stored as its upper 16 bits each, followed by the next 8 bits of each. */
#ifndef EDGESAM_PACKED_H
#define EDGESAM_PACKED_H

#include <stdint.h>

#include "parameters.h"

enum {
    PACKED_ROW = INNER * 3, /* bytes */
};

/* At any address, since the rows are bytes. */
typedef uint16_t packed_upper __attribute__((may_alias, aligned(1)));
typedef uint32_t float_bits __attribute__((may_alias));

/* Plain loops, which compilers turn into vectors of any kind of processor. */
static inline void pack_rows(int rows, const float *from, uint8_t *to)
{
    for (; rows > 0; rows--, from += INNER, to += PACKED_ROW) {
        const float_bits *bits = (const float_bits *)from;
        packed_upper *upper = (packed_upper *)to;
        uint8_t *lower = to + INNER * sizeof(packed_upper);
        for (int i = 0; i < INNER; i++) {
            uint32_t rounded = bits[i] + 0x80;
            upper[i] = (uint16_t)(rounded >> 16);
            lower[i] = (uint8_t)(rounded >> 8);
        }
    }
}

static inline void unpack_rows(int rows, const uint8_t *from, float *to)
{
    for (; rows > 0; rows--, from += PACKED_ROW, to += INNER) {
        const packed_upper *upper = (const packed_upper *)from;
        const uint8_t *lower = from + INNER * sizeof(packed_upper);
        float_bits *bits = (float_bits *)to;
        for (int i = 0; i < INNER; i++)
            bits[i] = (uint32_t)upper[i] << 16 | (uint32_t)lower[i] << 8;
    }
}

/* The rows of an array from number `row` on. */
static inline edgesam_rows rows_from(edgesam_rows array, long row)
{
    return array.packed ? (edgesam_rows){.packed = array.packed + row * PACKED_ROW}
                        : (edgesam_rows){.float32 = array.float32 + row * INNER};
}

/* The numbers of an array from number `i` on. */
static inline edgesam_numbers numbers_from(edgesam_numbers array, long i)
{
    return array.float16 ? (edgesam_numbers){.float16 = array.float16 + i}
                         : (edgesam_numbers){.float32 = array.float32 + i};
}

#endif
