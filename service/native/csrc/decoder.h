/* EdgeSAM's mask decoder for one processor's caches: the click path of the service without a graph runtime. */
#ifndef EDGESAM_DECODER_H
#define EDGESAM_DECODER_H

#include <stdint.h>

/* Only these functions are seen outside of the library; its others have names that many libraries have. */
#define EDGESAM_API __attribute__((visibility("default")))

#define EDGESAM_MAX_TOKENS 128 /* 5 output tokens and the points of a prompt */

/* A parameter under its name in SAM's checkpoint, row-major float32. */
typedef struct {
    const char *name;
    const float *data;
    int64_t size; /* numbers */
} edgesam_tensor;

/* A picture's embedding (4096, 256) in float16 or in float32; the other one is NULL. */
typedef struct {
    const uint16_t *half;
    const float *single;
} edgesam_tokens;

/* What `prepare` made of one picture, or of as many as there are prompts, row-major float32 (StateArrays in
 * service/inference/backends/runtime.py). */
typedef struct {
    int count;
    const float *keys;     /* (count, 4096, 256) */
    const float *keys0;    /* (count, 4096, 128), columns (channel, head) */
    const float *queries0; /* (count, 4096, 128), columns (channel, head) */
} edgesam_states;

/* Points (count, length, 2) as x, y in the frame, and labels (count, length) after service/sam/prompts.py; -3 marks no
 * point at all. */
typedef struct {
    int count, length;
    const float *points;
    const int64_t *labels;
} edgesam_prompts;

/* Of each prompt: (4, 256, 256), (4), (4). */
typedef struct {
    float *mask_logits, *iou_predictions, *stability;
} edgesam_masks;

typedef struct edgesam_decoder edgesam_decoder;

/* Copies what it needs of `tensors` and starts `threads` - 1 helpers. NULL: `error` (at least 256 bytes) says why. */
EDGESAM_API edgesam_decoder *edgesam_decoder_new(const edgesam_tensor *tensors, int count, int threads, char *error);

EDGESAM_API void edgesam_decoder_free(edgesam_decoder *);

/* Does what depends on a picture without a mask prompt alone: fills keys, keys0 and queries0 of one state. */
EDGESAM_API void edgesam_prepare(edgesam_decoder *, edgesam_tokens, int threads, float *keys, float *keys0, float *queries0);

/* Decodes prompts on at most `threads` threads. Each prompt's answer is the same bit for bit whatever their number and
 * whatever the other prompts. May be called from several threads at a time.
 *
 * Returns 0; -1: out of memory; -2: too many points or a label that there is not. */
EDGESAM_API int edgesam_decode(edgesam_decoder *, edgesam_states, edgesam_prompts, int threads, edgesam_masks);

#endif
