/* The decode context: what the steps of decoding one prompt share. */
#ifndef EDGESAM_DECODE_CONTEXT_H
#define EDGESAM_DECODE_CONTEXT_H

#include "parameters.h"
#include "thread_pool.h"

/* T is the number of prompt tokens, J = 8·T that of columns. Column t·8 + h belongs to token t in head h. */

enum {
    CHUNKS = 16, /* parts of a pass over the image tokens; independent of the threads, and so is the result */
};

/* Buffers of a call, for up to `max_tokens` prompt tokens. The decoder keeps them for later calls. */
typedef struct scratch {
    struct scratch *next;
    int max_tokens;
    float *memory;

    float *stream;                                        /* (4096, C): image tokens between the passes */
    float *start, *tokens, *positioned, *attended;        /* (T, C) */
    float *query, *key, *value;                           /* (T, C) */
    float *hidden;                                        /* (T, HIDDEN) */
    float *token_queries, *token_keys;                    /* (T, INNER), columns (channel, head) */
    float *absorbed;                                      /* (J, C) */
    float *token_to_image_weight, *image_to_token_weight; /* (C, J) */
    float *image_to_token_bias;                           /* (J) */
    float *token_outputs;                                 /* (J, C) in panels: values after the output projection */
    float *sums, *maxima, *totals;                        /* running softmax of each chunk: (J, C), (J), (J) */
    float hyper[MASKS * 4 * FINE];                        /* of the wanted masks; each channel four times, as `up2` */
    int sure[CHUNKS][MASKS], likely[CHUNKS][MASKS];       /* pixels above +1 and above -1 */
    int narrow_sure[CHUNKS], narrow_likely[CHUNKS];       /* pixels of output 0 above +0.05 and above -0.05 */
} scratch;

typedef struct decode_context {
    const parameters *p;
    scratch *s;
    thread_pool *pool;
    int threads;
    int t, j;
    int has_tokens;                       /* whether the keys are the tokens, without the "no mask" embedding */
    edgesam_numbers keys;                 /* the image state, as in edgesam_states */
    edgesam_rows keys0, queries0;
    edgesam_maps maps;
    float *mask_logits;                   /* (4, 256, 256) */
    edgesam_selection selection;
    int wanted, outputs[MASKS];           /* masks that are computed, known after the predicted IoUs */
    const struct decode_context *final;   /* the tokens that the final attention computes now */
} decode_context;

#endif
