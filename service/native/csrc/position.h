/* Positions are added where they are needed: a table of all 4096 would take 4 MiB through the memory bus each time. */
#ifndef EDGESAM_POSITION_H
#define EDGESAM_POSITION_H

#include "parameters.h"
#include "vector.h"

/* placed = x + position of channels i.. and C / 2 + i.. of a token: sin(a + b) and cos(a + b) of its grid column's angle
 * a and its row's angle b. */
INLINE void place(vf x_sine, vf x_cosine, const float *column, const float *row, int i, float *placed)
{
    vf sin_a = load(column + i), cos_a = load(column + C / 2 + i);
    vf sin_b = load(row + i), cos_b = load(row + C / 2 + i);
    store(placed + i, x_sine + sin_a * cos_b + cos_a * sin_b);
    store(placed + C / 2 + i, x_cosine + cos_a * cos_b - sin_a * sin_b);
}

#endif
