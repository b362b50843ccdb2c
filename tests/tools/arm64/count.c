/* Calls one job of the native library some times, so that its instructions can be counted:
 * count decode|prepare|masks TIMES */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/made_parameters.h"
#include "masks.h"

enum { TOKENS = 4096, SIDE = EDGESAM_MASK_SIZE, HEIGHT = 1200, WIDTH = 1600, CAPACITY = 1 << 20, ROW_BYTES = 384 };

static edgesam_axis make_axis(int length)
{
    int32_t *first = malloc(length * sizeof *first), *starts = malloc((SIDE - 1) * sizeof *starts);
    float *weights = calloc(3 * length, sizeof *weights);
    for (int window = 0; window < SIDE - 1; window++)
        starts[window] = length;
    for (int pixel = length - 1; pixel >= 0; pixel--) {
        double at = (pixel + 0.5) * SIDE / length - 0.5;
        at = fmin(fmax(at, 0.0), SIDE - 1.0);
        first[pixel] = (int32_t)fmin(floor(at), SIDE - 3.0);
        double behind = at - first[pixel];
        for (int tap = 0; tap < EDGESAM_TAPS; tap++)
            weights[tap * length + pixel] = (float)fmax(0.0, 1.0 - fabs(behind - tap));
        for (int window = 0; window <= first[pixel]; window++)
            starts[window] = pixel <= starts[window] && first[pixel] >= window ? pixel : starts[window];
    }
    return (edgesam_axis){length, first, weights, starts};
}

static void decode(edgesam_decoder *decoder, edgesam_states states, int times)
{
    static float points[] = {512, 384, 0, 0}, iou[4], stability[4];
    static const int64_t labels[] = {1, -1}; /* a click, and the padding point that SAM adds */
    float *masks = malloc(4L * SIDE * SIDE * sizeof *masks);
    for (int i = 0; i < times; i++)
        edgesam_decode_prompts(decoder, states, (edgesam_maps){0}, (edgesam_prompts){1, 2, points, labels}, 1,
                               (edgesam_masks){masks, iou, stability, NULL});
    printf("predicted IoU %g\n", iou[0]);
}

static void prepare(edgesam_decoder *decoder, edgesam_states states, int times)
{
    for (int i = 0; i < times; i++)
        edgesam_prepare_state(decoder, states.keys, 1, (uint8_t *)states.keys0.packed,
                              (uint8_t *)states.queries0.packed);
    printf("prepared %d\n", states.keys0.packed[0]);
}

/* A disc of the half of the image's height. */
static void make_masks(int times)
{
    static float logits[SIDE * SIDE];
    edgesam_axis rows = make_axis(HEIGHT), columns = make_axis(WIDTH);
    uint32_t *transitions = malloc(CAPACITY * sizeof *transitions);
    uint8_t *pixels = malloc((size_t)HEIGHT * WIDTH);
    int64_t area = 0, count = 0;
    int32_t box[4];
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            logits[y * SIDE + x] = 0.1f * (64.0f - hypotf(x - 127.5f, y - 127.5f));
    for (int i = 0; i < times; i++) {
        count = edgesam_mask_transitions(logits, &rows, &columns, CAPACITY, transitions, &area, box);
        edgesam_mask_pixels(transitions, count, HEIGHT, box, pixels);
    }
    printf("area %lld\n", (long long)area);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    const int times = atoi(argv[2]);
    char error[256];
    make_parameters();
    edgesam_decoder *decoder = edgesam_decoder_create(tensors, count, 1e-6f, 1, error);
    if (!decoder) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    static uint16_t tokens[TOKENS * 256]; /* float16 */
    static uint8_t keys0[TOKENS * ROW_BYTES], queries0[TOKENS * ROW_BYTES];
    for (int i = 0; i < TOKENS * 256; i++)
        tokens[i] = (uint16_t)(0x3000 + i % 1024);
    const edgesam_states states = {1, 1, {tokens, NULL}, {.packed = keys0}, {.packed = queries0}};
    if (!strcmp(argv[1], "decode"))
        edgesam_prepare_state(decoder, states.keys, 1, keys0, queries0);
    if (!strcmp(argv[1], "decode"))
        decode(decoder, states, times);
    else if (!strcmp(argv[1], "prepare"))
        prepare(decoder, states, times);
    else
        make_masks(times);
    return 0;
}
