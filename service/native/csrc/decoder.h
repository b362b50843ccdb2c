/* The prompt decoder of SAM and of SAM 2 for CPUs, without a graph runtime. */
#ifndef EDGESAM_DECODER_H
#define EDGESAM_DECODER_H

#include <stdint.h>

/* Only these functions are visible outside of the library. The names of the others also occur in other libraries. */
#define EDGESAM_API __attribute__((visibility("default")))

#define EDGESAM_PADDING_LOGIT -100.0f
#define EDGESAM_MAX_POINTS 123                      /* of a prompt, absent ones included */
#define EDGESAM_MAX_TOKENS (6 + EDGESAM_MAX_POINTS) /* SAM 2 has 6 output tokens, SAM has 5 */

/* A parameter under its name in SAM's checkpoint, row-major float32. */
typedef struct {
    const char *name;
    const float *data;
    int64_t size; /* numbers */
} edgesam_tensor;

/* An array in float16 or in float32; the other pointer is NULL. */
typedef struct {
    const uint16_t *float16;
    const float *float32;
} edgesam_numbers;

/* An array in float32, or in the 24 bits of packed.h, 384 bytes a row; the other pointer is NULL. */
typedef struct {
    const float *float32;
    const uint8_t *packed;
} edgesam_rows;

/* The states of one image, or of one image for each prompt, row-major (StateArrays in
 * service/inference/backends/image_state.py). */
typedef struct {
    int count;
    int has_tokens;         /* whether the keys are the tokens, to which the "no mask" embedding is added */
    edgesam_numbers keys;   /* (count, 4096, 256) */
    edgesam_rows keys0;     /* (count, 4096, 128), columns (channel, head) */
    edgesam_rows queries0;  /* (count, 4096, 128), columns (channel, head) */
} edgesam_states;

/* The high-resolution maps of one image, which SAM 2's decoder adds to the upscaled image tokens
 * (docs/explanation/sam2.md, section "Decoder"). Without maps all pointers are NULL. */
typedef struct {
    edgesam_numbers s1; /* (4096, dy, dx, 64) */
    edgesam_numbers s0; /* (4096, dy, dx, 32, dy, dx): the last two within a coarse pixel */
} edgesam_maps;

/* Points (count, length, 2) as x, y in the frame, and labels (count, length) of service/sam/prompts.py. The label -3
 * means that there is no point. */
typedef struct {
    int count, length;
    const float *points;
    const int64_t *labels;
} edgesam_prompts;

/* The masks that are wanted: output k where bit k of `outputs` is set and the predicted IoU is above `least_iou`. NaN
 * there wants masks of any predicted IoU. */
typedef struct {
    unsigned outputs;
    float least_iou;
    int rows, columns; /* image tokens that show the image, 1 to 64 each; the rest is padding */
} edgesam_selection;

/* The result for each prompt: (4, 256, 256), (4), (4). With SAM 2 also the stability of output 0 at ±0.05. Logits and
 * stabilities of masks that are not wanted stay unwritten. */
typedef struct {
    float *mask_logits, *iou_predictions, *stability, *narrow_stability;
} edgesam_masks;

typedef struct edgesam_decoder edgesam_decoder;

/* Copies the parameters out of `tensors` and starts `threads` - 1 helper threads. Parameters with an object score token
 * are those of SAM 2. `norm_epsilon` is the epsilon of the transformer's layer norms. On failure it returns NULL and
 * writes the reason to `error` (at least 256 bytes). */
EDGESAM_API edgesam_decoder *edgesam_decoder_create(const edgesam_tensor *tensors, int count, float norm_epsilon,
                                                    int threads, char *error);

EDGESAM_API void edgesam_decoder_free(edgesam_decoder *);

/* Whether the decoder is one of SAM 2: it needs maps, and it writes the narrow stability. */
EDGESAM_API int edgesam_needs_maps(const edgesam_decoder *);

/* Computes the part that depends on the image alone, without a mask prompt: packed keys0 and queries0 of one state. Its
 * keys are the tokens, (4096, 256). */
EDGESAM_API void edgesam_prepare_state(edgesam_decoder *, edgesam_numbers tokens, int threads, uint8_t *keys0,
                                 uint8_t *queries0);

/* Decodes prompts on at most `threads` threads. All prompts use the same maps, also on states of several masks. The
 * result for a prompt is the same, bit for bit, for any number of threads and any other prompts. Several threads may
 * call it at the same time.
 *
 * Returns 0, -1 when memory runs out, or -2 for too many points, an unknown label, or maps that are missing or not
 * needed. */
EDGESAM_API int edgesam_decode_prompts(edgesam_decoder *, edgesam_states, edgesam_maps, edgesam_prompts, int threads,
                                       edgesam_masks);

/* The same for a selection of the masks. A prompt of which no mask is wanted takes less than half the time. What is written
 * equals the result of edgesam_decode_prompts, bit for bit. The predicted IoUs of all outputs are written. With a number in
 * `least_iou`, logits of padding are EDGESAM_PADDING_LOGIT or those of edgesam_decode_prompts, and count for stabilities.
 * `narrow_stability` is not. */
EDGESAM_API int edgesam_decode_selected(edgesam_decoder *, edgesam_states, edgesam_maps, edgesam_prompts, int threads,
                                        edgesam_selection, edgesam_masks);

#endif
