/* The positional code of image tokens. It is computed where it is added: a table of all 4096 tokens would take 4 MiB
 * through the memory bus each time. */
#ifndef EDGESAM_POSITION_H
#define EDGESAM_POSITION_H

#include "parameters.h"
#include "vector.h"

/* positioned = x + positional code, for the channels from i on and from C / 2 + i on of one token. The code is
 * sin(a + b) and cos(a + b), where a is the angle of the token's grid column and b that of its row. */
INLINE void add_position(vf x_sine, vf x_cosine, const float *column, const float *row, int i, float *positioned)
{
    vf sin_a = load(column + i), cos_a = load(column + C / 2 + i);
    vf sin_b = load(row + i), cos_b = load(row + C / 2 + i);
    store(positioned + i, x_sine + sin_a * cos_b + cos_a * sin_b);
    store(positioned + C / 2 + i, x_cosine + cos_a * cos_b - sin_a * sin_b);
}

#endif
