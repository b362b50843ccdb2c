/* One decoder call: what its steps share. */
#ifndef EDGESAM_CALL_H
#define EDGESAM_CALL_H

#include "parameters.h"
#include "team.h"

/* Letters: T prompt tokens; J = 8·T columns, column t·8 + h being token t in head h. */

enum {
    CHUNKS = 16, /* parts of a pass over the image tokens; the same whatever the threads, and so the answer */
};

/* Buffers of a call. The decoder keeps them for later calls; they are made for `most_tokens`. */
typedef struct scratch {
    struct scratch *next;
    int most_tokens;
    float *memory;

    float *stream;                             /* (4096, C): image tokens between the passes */
    float *start, *tokens, *placed, *attended; /* (T, C) */
    float *query, *key, *value;                /* (T, C) */
    float *hidden;                             /* (T, HIDDEN) */
    float *read_heads, *write_heads;           /* (T, INNER), columns (channel, head) */
    float *absorbed;                           /* (J, C) */
    float *read_weight, *write_weight;         /* (C, J) */
    float *write_bias;                         /* (J) */
    float *written;                            /* (J, C) in panels */
    float *sums, *maxima, *totals;             /* of each chunk: (J, C), (J), (J) */
    float hyper[MASKS * 4 * FINE];             /* each channel four times, as `up2` lays them */
    int sure[CHUNKS][MASKS], likely[CHUNKS][MASKS]; /* pixels above +1 and above -1 */
} scratch;

typedef struct {
    const parameters *p;
    scratch *s;
    team *team;
    int threads;
    int t, j;
    const float *keys, *keys0, *queries0; /* the picture */
    float *mask_logits;                   /* (4, 256, 256) */
} call;

#endif
