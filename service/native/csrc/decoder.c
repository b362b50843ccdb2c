/* SAM's two-way decoder (docs/explanation/model.md, section 3) in four passes over the 4096 image tokens, and that of
 * SAM 2 (docs/explanation/sam2.md, section "Decoder").
 *
 * A graph runtime reads the image tokens from memory for each of some forty operations. Here a block of tokens goes
 * through as many operations as possible while it stays in the cache. Three times the prompt tokens need a sum over all
 * image tokens, and once the hypernetworks have to be known, which makes four passes (image.h). The algebra is that of
 * model_store/export/graphs/decoder.py: projections act on the few prompt tokens wherever they can.
 */
#include "decoder.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode_context.h"
#include "image.h"
#include "memory.h"
#include "packed.h"
#include "prepare.h"
#include "tokens.h"

struct edgesam_decoder {
    parameters parameters;
    thread_pool *pool;
    pthread_mutex_t mutex; /* protects `idle` */
    scratch *idle;
};

edgesam_decoder *edgesam_decoder_create(const edgesam_tensor *tensors, int count, float norm_epsilon, int threads,
                                        char *error)
{
    edgesam_decoder *d = calloc(1, sizeof *d);
    if (!d) {
        snprintf(error, 256, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&d->mutex, NULL);
    if (parameters_load(&d->parameters, tensors, count, norm_epsilon, error) == 0) {
        d->pool = thread_pool_new(threads - 1);
        if (d->pool)
            return d;
        snprintf(error, 256, "cannot start %d threads", threads - 1);
    }
    edgesam_decoder_free(d);
    return NULL;
}

static void scratch_free(scratch *s)
{
    if (s)
        free(s->memory);
    free(s);
}

static scratch *scratch_new(int max_tokens)
{
    scratch *s = calloc(1, sizeof *s);
    long t = max_tokens, j = t * HEADS;
    struct {
        float **buffer;
        long size;
    } parts[] = {
        {&s->stream, (long)IMAGE_TOKENS * C}, {&s->start, t * C}, {&s->tokens, t * C}, {&s->positioned, t * C},
        {&s->attended, t * C}, {&s->query, t * C}, {&s->key, t * C}, {&s->value, t * C}, {&s->hidden, t * HIDDEN},
        {&s->token_queries, t * INNER}, {&s->token_keys, t * INNER}, {&s->absorbed, j * C},
        {&s->token_to_image_weight, C * j}, {&s->image_to_token_weight, C * j}, {&s->image_to_token_bias, j},
        {&s->token_outputs, j * C}, {&s->sums, CHUNKS * j * C},
        {&s->maxima, CHUNKS * j}, {&s->totals, CHUNKS * j},
    };
    const int count = sizeof parts / sizeof *parts;
    long total = 0;
    if (!s)
        return NULL;
    for (int i = 0; i < count; i++)
        total += (parts[i].size + 15) / 16 * 16;
    float *at = s->memory = memory_new((size_t)total);
    if (!at) {
        scratch_free(s);
        return NULL;
    }
    for (int i = 0; i < count; i++) {
        *parts[i].buffer = at;
        at += (parts[i].size + 15) / 16 * 16;
    }
    s->max_tokens = max_tokens;
    return s;
}

static scratch *scratch_acquire(edgesam_decoder *d, int tokens)
{
    pthread_mutex_lock(&d->mutex);
    scratch *s = d->idle;
    if (s)
        d->idle = s->next;
    pthread_mutex_unlock(&d->mutex);
    if (s && s->max_tokens < tokens) {
        scratch_free(s);
        s = NULL;
    }
    return s ? s : scratch_new(tokens < 16 ? 16 : tokens);
}

static void scratch_release(edgesam_decoder *d, scratch *s)
{
    pthread_mutex_lock(&d->mutex);
    s->next = d->idle;
    d->idle = s;
    pthread_mutex_unlock(&d->mutex);
}

void edgesam_decoder_free(edgesam_decoder *d)
{
    if (d->pool)
        thread_pool_free(d->pool);
    while (d->idle) {
        scratch *s = d->idle;
        d->idle = s->next;
        scratch_free(s);
    }
    parameters_free(&d->parameters);
    pthread_mutex_destroy(&d->mutex);
    free(d);
}

int edgesam_needs_maps(const edgesam_decoder *d)
{
    return d->parameters.is_sam2;
}

void edgesam_prepare_state(edgesam_decoder *d, edgesam_numbers tokens, int threads, uint8_t *keys0, uint8_t *queries0)
{
    prepare(&(preparation){&d->parameters, tokens, keys0, queries0}, d->pool, threads);
}

/* The stability score of each mask: pixels above +1 over pixels above -1; 0 where there are none
 * (docs/explanation/model.md, section 3.4). */
static void score_stability(const decode_context *ctx, float *stability)
{
    const scratch *s = ctx->s;
    for (int i = 0; i < ctx->wanted; i++) {
        const int mask = ctx->outputs[i];
        int sure = 0, likely = 0;
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            sure += s->sure[chunk][mask];
            likely += s->likely[chunk][mask];
        }
        stability[mask] = likely ? (float)sure / (float)likely : 0.0f;
    }
}

/* The stability of output 0 at ±0.05, by which SAM 2's rule decides about a single mask; 1 where no pixel is above
 * -0.05 (docs/explanation/sam2.md, section "Decoder"). */
static float narrow_stability_of(const scratch *s)
{
    int sure = 0, likely = 0;
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        sure += s->narrow_sure[chunk];
        likely += s->narrow_likely[chunk];
    }
    return likely ? (float)sure / (float)likely : 1.0f;
}

/* Some of the tokens as a context of their own, with buffers of the same memory. The final attention computes each token
 * by itself: so it can leave out tokens whose result nobody needs. */
typedef struct {
    decode_context context;
    scratch buffers;
} token_part;

static void take_tokens(token_part *part, const decode_context *ctx, int first, int count)
{
    part->context = *ctx;
    part->buffers = *ctx->s;
    part->buffers.tokens += (long)first * C;
    part->buffers.start += (long)first * C;
    part->context.s = &part->buffers;
    part->context.t = count;
    part->context.j = count * HEADS;
}

/* From layer 1's image_to_token on, for masks of any predicted IoU. */
static void finish_all(decode_context *ctx, float *iou_predictions)
{
    ctx->final = ctx;
    tokens_prepare_token_to_image(ctx, &ctx->p->final, 0);
    image_pass_3(ctx);
    tokens_finish_token_to_image(ctx, &ctx->p->final, &ctx->p->final_norm);
    tokens_predict(ctx, iou_predictions);
}

/* The same where the predicted IoU decides: first the token of the predicted IoUs, and those of the masks if any mask is
 * wanted. */
static void finish_selected(decode_context *ctx, float *iou_predictions)
{
    token_part part;
    take_tokens(&part, ctx, ctx->p->iou_token, 1);
    ctx->final = &part.context;
    tokens_prepare_token_to_image(ctx->final, &ctx->p->final, 0);
    image_pass_3(ctx);
    tokens_finish_token_to_image(ctx->final, &ctx->p->final, &ctx->p->final_norm);
    tokens_predict(ctx, iou_predictions);
    if (ctx->wanted == 0)
        return;
    take_tokens(&part, ctx, ctx->p->iou_token + 1, MASKS);
    tokens_prepare_token_to_image(ctx->final, &ctx->p->final, 0);
    image_upscale(ctx);
    tokens_finish_token_to_image(ctx->final, &ctx->p->final, &ctx->p->final_norm);
}

static void run_passes(decode_context *ctx, float *iou_predictions, float *stability)
{
    const layer *first = &ctx->p->layers[0], *second = &ctx->p->layers[1];

    tokens_attend(ctx, first, 1);
    tokens_prepare_token_to_image(ctx, &first->token_to_image, 1);
    image_pass_1(ctx);
    tokens_finish_token_to_image(ctx, &first->token_to_image, &first->norm2);
    tokens_feed_forward(ctx, first);

    tokens_prepare_image_to_token(ctx, &first->image_to_token, 1);
    tokens_attend(ctx, second, 0);
    tokens_prepare_token_to_image(ctx, &second->token_to_image, 0);
    image_pass_2(ctx);
    tokens_finish_token_to_image(ctx, &second->token_to_image, &second->norm2);
    tokens_feed_forward(ctx, second);

    tokens_prepare_image_to_token(ctx, &second->image_to_token, 0);
    if (isnan(ctx->selection.least_iou))
        finish_all(ctx, iou_predictions);
    else
        finish_selected(ctx, iou_predictions);
    if (ctx->wanted == 0)
        return;
    tokens_predict_masks(ctx);
    image_pass_4(ctx);
    score_stability(ctx, stability);
}

/* The arguments of edgesam_decode, for its threads. */
typedef struct {
    edgesam_decoder *d;
    edgesam_states states;
    edgesam_maps maps;
    edgesam_prompts prompts;
    edgesam_selection selection;
    edgesam_masks masks;
    int has_failed; /* out of memory, in any thread */
} request;

static void decode_prompt(request *r, int i, int threads)
{
    edgesam_decoder *d = r->d;
    scratch *s = scratch_acquire(d, d->parameters.output_count + r->prompts.length);
    if (!s) {
        __atomic_store_n(&r->has_failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const long state = r->states.count > 1 ? i : 0, first = (long)i * r->prompts.length;
    decode_context ctx = {
        .p = &d->parameters,
        .s = s,
        .pool = d->pool,
        .threads = threads,
        .has_tokens = r->states.has_tokens,
        .keys = numbers_from(r->states.keys, state * IMAGE_TOKENS * C),
        .keys0 = rows_from(r->states.keys0, state * IMAGE_TOKENS),
        .queries0 = rows_from(r->states.queries0, state * IMAGE_TOKENS),
        .maps = r->maps,
        .mask_logits = r->masks.mask_logits + (long)i * MASKS * MASK_PIXELS,
        .selection = r->selection,
    };
    ctx.t = tokens_embed(ctx.p, r->prompts.points + 2 * first, r->prompts.labels + first, r->prompts.length, s->start);
    ctx.j = ctx.t * HEADS;
    memcpy(s->tokens, s->start, (size_t)ctx.t * C * sizeof(float));
    run_passes(&ctx, r->masks.iou_predictions + i * MASKS, r->masks.stability + i * MASKS);
    if (ctx.p->is_sam2 && r->masks.narrow_stability)
        r->masks.narrow_stability[i] = narrow_stability_of(s);
    scratch_release(d, s);
}

static void decode_alone(void *context, int i)
{
    decode_prompt(context, i, 1);
}

static int is_given(edgesam_numbers array)
{
    return array.float16 || array.float32;
}

static int decode(edgesam_decoder *d, edgesam_states states, edgesam_maps maps, edgesam_prompts prompts, int threads,
                  edgesam_selection selection, edgesam_masks masks)
{
    if (prompts.length > EDGESAM_MAX_POINTS)
        return -2;
    if (is_given(maps.s1) != d->parameters.is_sam2 || is_given(maps.s0) != d->parameters.is_sam2)
        return -2;
    for (long i = 0; i < (long)prompts.count * prompts.length; i++)
        if (prompts.labels[i] < LABEL_ABSENT || prompts.labels[i] > LABEL_LAST)
            return -2;
    request r = {d, states, maps, prompts, selection, masks, 0};
    /* As many prompts as fill all threads run on one thread each, which wastes nothing. All threads share the rest. */
    const int alone = threads > 1 ? prompts.count / threads * threads : prompts.count;
    thread_pool_run(d->pool, threads, alone, decode_alone, &r);
    for (int i = alone; i < prompts.count; i++)
        decode_prompt(&r, i, threads);
    return r.has_failed ? -1 : 0;
}

int edgesam_decode_prompts(edgesam_decoder *d, edgesam_states states, edgesam_maps maps, edgesam_prompts prompts,
                           int threads, edgesam_masks masks)
{
    const edgesam_selection all = {(1u << MASKS) - 1, NAN, GRID, GRID};
    return decode(d, states, maps, prompts, threads, all, masks);
}

int edgesam_decode_selected(edgesam_decoder *d, edgesam_states states, edgesam_maps maps, edgesam_prompts prompts,
                            int threads, edgesam_selection selection, edgesam_masks masks)
{
    if (selection.rows < 1 || selection.rows > GRID || selection.columns < 1 || selection.columns > GRID)
        return -2;
    masks.narrow_stability = NULL;
    return decode(d, states, maps, prompts, threads, selection, masks);
}
