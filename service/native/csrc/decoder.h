/* EdgeSAM's prompt decoder for CPUs, without a graph runtime. */
#ifndef EDGESAM_DECODER_H
#define EDGESAM_DECODER_H

#include <stdint.h>

/* Only these functions are visible outside of the library. The names of the others also occur in other libraries. */
#define EDGESAM_API __attribute__((visibility("default")))

#define EDGESAM_MAX_TOKENS 128 /* 5 output tokens and the points of a prompt */

/* A parameter under its name in SAM's checkpoint, row-major float32. */
typedef struct {
    const char *name;
    const float *data;
    int64_t size; /* numbers */
} edgesam_tensor;

/* The embedding of an image, (4096, 256), in float16 or in float32; the other pointer is NULL. */
typedef struct {
    const uint16_t *float16;
    const float *float32;
} edgesam_tokens;

/* The states of one image, or of one image for each prompt, row-major float32 (StateArrays in
 * service/inference/backends/runtime.py). */
typedef struct {
    int count;
    const float *keys;     /* (count, 4096, 256) */
    const float *keys0;    /* (count, 4096, 128), columns (channel, head) */
    const float *queries0; /* (count, 4096, 128), columns (channel, head) */
} edgesam_states;

/* Points (count, length, 2) as x, y in the frame, and labels (count, length) of service/sam/prompts.py. The label -3
 * means that there is no point. */
typedef struct {
    int count, length;
    const float *points;
    const int64_t *labels;
} edgesam_prompts;

/* The result for each prompt: (4, 256, 256), (4), (4). */
typedef struct {
    float *mask_logits, *iou_predictions, *stability;
} edgesam_masks;

typedef struct edgesam_decoder edgesam_decoder;

/* Copies the parameters out of `tensors` and starts `threads` - 1 helper threads. `norm_epsilon` is the epsilon of the
 * transformer's layer norms. On failure it returns NULL and writes the reason to `error` (at least 256 bytes). */
EDGESAM_API edgesam_decoder *edgesam_decoder_create(const edgesam_tensor *tensors, int count, float norm_epsilon,
                                                    int threads, char *error);

EDGESAM_API void edgesam_decoder_free(edgesam_decoder *);

/* Computes the part that depends on the image alone, without a mask prompt: keys, keys0 and queries0 of one state. */
EDGESAM_API void edgesam_prepare(edgesam_decoder *, edgesam_tokens, int threads, float *keys, float *keys0,
                                 float *queries0);

/* Decodes prompts on at most `threads` threads. The result for a prompt is the same, bit for bit, for any number of
 * threads and any other prompts. Several threads may call it at the same time.
 *
 * Returns 0, -1 when memory runs out, or -2 for too many points or an unknown label. */
EDGESAM_API int edgesam_decode(edgesam_decoder *, edgesam_states, edgesam_prompts, int threads, edgesam_masks);

#endif
