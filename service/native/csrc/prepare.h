/* The part that depends on the image alone: the "no mask" embedding and the image projections of layer 0
 * (PrepareGraph). */
#ifndef EDGESAM_PREPARE_H
#define EDGESAM_PREPARE_H

#include "parameters.h"
#include "thread_pool.h"

typedef struct {
    const parameters *p;
    edgesam_numbers tokens;
    uint8_t *keys0, *queries0; /* packed.h */
} preparation;

void prepare(const preparation *, thread_pool *, int threads);

#endif
