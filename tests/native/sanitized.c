/* Decodes prompts of several lengths from several threads, on parameters made up by name, as SAM and then as SAM 2; run
 * under sanitizers. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder.h"
#include "made_parameters.h"

enum { TOKENS = 4096, MASKS = 4 * 256 * 256, JOBS = 4 };

typedef struct {
    edgesam_decoder *decoder;
    edgesam_states states;
    edgesam_maps maps;
    int number, failures;
} job;

static void *decode(void *argument)
{
    static const int lengths[JOBS] = {0, 2, 17, 123};
    job *j = argument;
    int length = lengths[j->number], prompts = 1 + j->number % 2;
    float *points = malloc((size_t)prompts * (size_t)length * 2 * sizeof *points);
    int64_t *labels = malloc((size_t)prompts * (size_t)length * sizeof *labels);
    float *masks = malloc((size_t)prompts * MASKS * sizeof *masks), iou[2 * 4], stability[2 * 4], narrow[2];
    for (int i = 0; i < prompts * length; i++) {
        points[2 * i] = points[2 * i + 1] = 8.0f * (float)i;
        labels[i] = i % 7 - 3;
    }
    j->failures = edgesam_decode_prompts(j->decoder, j->states, j->maps,
                                         (edgesam_prompts){prompts, length, points, labels}, 1 + j->number % 3,
                                         (edgesam_masks){masks, iou, stability, narrow});
    for (int i = 0; i < prompts * MASKS; i++)
        j->failures += masks[i] != masks[i];
    for (int i = 0; i < 3 && length == 2; i++) /* all masks, those of some predicted IoUs, and none */
        j->failures += edgesam_decode_selected(
            j->decoder, j->states, j->maps, (edgesam_prompts){prompts, length, points, labels}, 1 + j->number % 3,
            (edgesam_selection){14, i ? iou[1] + 9.0f * (float)(i - 1) : NAN, 64, 33},
            (edgesam_masks){masks, iou, stability, NULL});
    free(points);
    free(labels);
    free(masks);
    return NULL;
}

/* Prepares states from tokens in float32 and in float16, and decodes on the last one from several threads. Returns the
 * number of failures. */
static int decode_all(edgesam_decoder *decoder, edgesam_maps maps)
{
    static float float16[TOKENS * 128];
    float *tokens = numbers(TOKENS * 256L);
    uint8_t *keys0 = malloc(TOKENS * 384L), *queries0 = malloc(TOKENS * 384L);
    edgesam_states states = {1, 1, {0}, {.packed = keys0}, {.packed = queries0}};
    memset(float16, 0x11, sizeof float16);
    for (int round = 0; round < 2; round++) {
        states.keys = (edgesam_numbers){round ? (uint16_t *)float16 : NULL, round ? NULL : tokens};
        edgesam_prepare_state(decoder, states.keys, 1 + round, keys0, queries0);
    }
    /* The states of two mask prompts, in float32. */
    float *keys = numbers(2 * TOKENS * 256L), *masked = numbers(2 * TOKENS * 128L);
    edgesam_states of_masks = {2, 0, {.float32 = keys}, {.float32 = masked}, {.float32 = masked}};
    job jobs[JOBS];
    pthread_t threads[JOBS];
    int failures = 0;
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = (job){decoder, i == 1 ? of_masks : states, maps, i, 0};
        pthread_create(&threads[i], NULL, decode, &jobs[i]);
    }
    for (int i = 0; i < JOBS; i++) {
        pthread_join(threads[i], NULL);
        failures += jobs[i].failures;
    }
    free(tokens);
    free(keys);
    free(masked);
    free(keys0);
    free(queries0);
    return failures;
}

/* Counts the calls with bad arguments that the decoder accepts. */
static int accepted(edgesam_decoder *decoder, edgesam_maps maps, edgesam_maps other)
{
    int64_t unknown = 9, positive = 1;
    float point[2] = {0, 0};
    edgesam_states states = {0};
    edgesam_masks nowhere = {0};
    edgesam_maps half = {.s1 = {.float32 = point}};
    edgesam_prompts label = {1, 1, point, &unknown}, many = {1, 124, point, &positive}, good = {1, 1, point, &positive};
    return (edgesam_decode_prompts(decoder, states, maps, label, 1, nowhere) != -2) +
           (edgesam_decode_prompts(decoder, states, maps, many, 1, nowhere) != -2) +
           (edgesam_decode_prompts(decoder, states, half, good, 1, nowhere) != -2) +
           (edgesam_decode_prompts(decoder, states, other, good, 1, nowhere) != -2);
}

int main(void)
{
    char error[256];
    make_parameters();
    edgesam_decoder *broken = edgesam_decoder_create(tensors, count - 1, 1e-5f, 2, error);
    if (broken || !*error)
        return 2;
    edgesam_decoder *sam = edgesam_decoder_create(tensors, count, 1e-6f, 3, error);
    put("", "mask_decoder.obj_score_token.weight", 256);
    edgesam_decoder *sam2 = sam ? edgesam_decoder_create(tensors, count, 1e-6f, 3, error) : NULL;
    if (!sam2) {
        fprintf(stderr, "%s\n", error);
        return 3;
    }
    float *s1 = numbers(TOKENS * 256L), *s0 = numbers(TOKENS * 512L);
    uint16_t *s1_float16 = malloc(TOKENS * 256 * sizeof *s1_float16);
    uint16_t *s0_float16 = malloc(TOKENS * 512 * sizeof *s0_float16);
    memset(s1_float16, 0x11, TOKENS * 256 * sizeof *s1_float16);
    memset(s0_float16, 0x11, TOKENS * 512 * sizeof *s0_float16);
    const edgesam_maps none = {0}, float32 = {{NULL, s1}, {NULL, s0}};
    const edgesam_maps float16 = {{s1_float16, NULL}, {s0_float16, NULL}};
    int failures = edgesam_needs_maps(sam) + !edgesam_needs_maps(sam2);
    failures += decode_all(sam, none) + decode_all(sam2, float32) + decode_all(sam2, float16);
    failures += accepted(sam, none, float32) + accepted(sam2, float32, none);
    edgesam_decoder_free(sam);
    edgesam_decoder_free(sam2);
    free(s1);
    free(s0);
    free(s1_float16);
    free(s0_float16);
    for (int i = 0; i < count; i++) {
        free((void *)tensors[i].name);
        free((void *)tensors[i].data);
    }
    if (!failures)
        puts("decoded");
    return failures != 0;
}
