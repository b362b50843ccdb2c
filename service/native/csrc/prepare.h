/* What is done once a picture: SAM's "no mask" embedding and layer 0's projections of the image (PrepareGraph). */
#ifndef EDGESAM_PREPARE_H
#define EDGESAM_PREPARE_H

#include "parameters.h"
#include "team.h"

typedef struct {
    const parameters *p;
    edgesam_tokens tokens;
    float *keys, *keys0, *queries0;
} preparation;

void prepare(const preparation *, team *, int threads);

#endif
