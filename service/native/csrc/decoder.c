/* SAM's two-way decoder (docs/explanation/model.md, section 3) in four passes over the 4096 image tokens.
 *
 * A graph runtime walks the image tokens once for each of some forty operations, and each walk goes through memory.
 * Here a block of them goes through all operations that the few prompt tokens allow while it stays in the cache; four
 * times the prompt side needs a sum over all image tokens, which makes four passes (image.h). The algebra is that of
 * model_store/graphs.py: projections act on the few tokens wherever they can.
 */
#include "decoder.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "image.h"
#include "memory.h"
#include "prepare.h"
#include "tokens.h"

struct edgesam_decoder {
    parameters parameters;
    team *team;
    pthread_mutex_t mutex; /* of `idle` */
    scratch *idle;
};

edgesam_decoder *edgesam_decoder_new(const edgesam_tensor *tensors, int count, int threads, char *error)
{
    edgesam_decoder *d = calloc(1, sizeof *d);
    if (!d) {
        snprintf(error, 256, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&d->mutex, NULL);
    if (parameters_read(&d->parameters, tensors, count, error) == 0) {
        d->team = team_new(threads - 1);
        if (d->team)
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

static scratch *scratch_new(int most_tokens)
{
    scratch *s = calloc(1, sizeof *s);
    long t = most_tokens, j = t * HEADS;
    struct {
        float **place;
        long size;
    } parts[] = {
        {&s->stream, (long)IMAGE_TOKENS * C}, {&s->start, t * C}, {&s->tokens, t * C}, {&s->placed, t * C},
        {&s->attended, t * C}, {&s->query, t * C}, {&s->key, t * C}, {&s->value, t * C}, {&s->hidden, t * HIDDEN},
        {&s->read_heads, t * INNER}, {&s->write_heads, t * INNER}, {&s->absorbed, j * C}, {&s->read_weight, C * j},
        {&s->write_weight, C * j}, {&s->write_bias, j}, {&s->written, j * C}, {&s->sums, CHUNKS * j * C},
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
        *parts[i].place = at;
        at += (parts[i].size + 15) / 16 * 16;
    }
    s->most_tokens = most_tokens;
    return s;
}

static scratch *scratch_take(edgesam_decoder *d, int tokens)
{
    pthread_mutex_lock(&d->mutex);
    scratch *s = d->idle;
    if (s)
        d->idle = s->next;
    pthread_mutex_unlock(&d->mutex);
    if (s && s->most_tokens < tokens) {
        scratch_free(s);
        s = NULL;
    }
    return s ? s : scratch_new(tokens < 16 ? 16 : tokens);
}

static void scratch_give(edgesam_decoder *d, scratch *s)
{
    pthread_mutex_lock(&d->mutex);
    s->next = d->idle;
    d->idle = s;
    pthread_mutex_unlock(&d->mutex);
}

void edgesam_decoder_free(edgesam_decoder *d)
{
    if (d->team)
        team_free(d->team);
    while (d->idle) {
        scratch *s = d->idle;
        d->idle = s->next;
        scratch_free(s);
    }
    parameters_free(&d->parameters);
    pthread_mutex_destroy(&d->mutex);
    free(d);
}

void edgesam_prepare(edgesam_decoder *d, edgesam_tokens tokens, int threads, float *keys, float *keys0, float *queries0)
{
    prepare(&(preparation){&d->parameters, tokens, keys, keys0, queries0}, d->team, threads);
}

/* Pixels above +1 over pixels above -1, per mask; 0 where there are none (docs/explanation/model.md 3.4). */
static void score_stability(const scratch *s, float *stability)
{
    for (int mask = 0; mask < MASKS; mask++) {
        int sure = 0, likely = 0;
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            sure += s->sure[chunk][mask];
            likely += s->likely[chunk][mask];
        }
        stability[mask] = likely ? (float)sure / (float)likely : 0.0f;
    }
}

static void decode_call(const call *c, float *iou_predictions, float *stability)
{
    const layer *first = &c->p->layers[0], *second = &c->p->layers[1];

    tokens_attend(c, first, 1);
    tokens_prepare_read(c, &first->read, 1);
    image_read_first(c);
    tokens_finish_read(c, &first->read, &first->norm2);
    tokens_feed_forward(c, first);

    tokens_prepare_write(c, &first->write, 1);
    tokens_attend(c, second, 0);
    tokens_prepare_read(c, &second->read, 0);
    image_exchange_first(c);
    tokens_finish_read(c, &second->read, &second->norm2);
    tokens_feed_forward(c, second);

    tokens_prepare_write(c, &second->write, 0);
    tokens_prepare_read(c, &c->p->final, 0);
    image_exchange_second(c);
    tokens_finish_read(c, &c->p->final, &c->p->final_norm);

    tokens_predict(c, iou_predictions);
    image_enlarge(c);
    score_stability(c->s, stability);
}

/* One request. */
typedef struct {
    edgesam_decoder *d;
    edgesam_states states;
    edgesam_prompts prompts;
    edgesam_masks masks;
    int has_failed; /* for want of memory; by any thread */
} request;

static void decode_prompt(request *r, int i, int threads)
{
    edgesam_decoder *d = r->d;
    scratch *s = scratch_take(d, OUTPUT_TOKENS + r->prompts.length);
    if (!s) {
        __atomic_store_n(&r->has_failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const long state = r->states.count > 1 ? i : 0, first = (long)i * r->prompts.length;
    call c = {
        .p = &d->parameters,
        .s = s,
        .team = d->team,
        .threads = threads,
        .keys = r->states.keys + state * IMAGE_TOKENS * C,
        .keys0 = r->states.keys0 + state * IMAGE_TOKENS * INNER,
        .queries0 = r->states.queries0 + state * IMAGE_TOKENS * INNER,
        .mask_logits = r->masks.mask_logits + (long)i * MASKS * MASK_PIXELS,
    };
    c.t = tokens_embed(c.p, r->prompts.points + 2 * first, r->prompts.labels + first, r->prompts.length, s->start);
    c.j = c.t * HEADS;
    memcpy(s->tokens, s->start, (size_t)c.t * C * sizeof(float));
    decode_call(&c, r->masks.iou_predictions + i * MASKS, r->masks.stability + i * MASKS);
    scratch_give(d, s);
}

static void decode_alone(void *context, int i)
{
    decode_prompt(context, i, 1);
}

int edgesam_decode(edgesam_decoder *d, edgesam_states states, edgesam_prompts prompts, int threads, edgesam_masks masks)
{
    if (prompts.length > EDGESAM_MAX_TOKENS - OUTPUT_TOKENS)
        return -2;
    for (long i = 0; i < (long)prompts.count * prompts.length; i++)
        if (prompts.labels[i] < LABEL_ABSENT || prompts.labels[i] > LABEL_LAST)
            return -2;
    request r = {d, states, prompts, masks, 0};
    /* As many as fill the threads run one a thread, which wastes nothing; those left over are shared by all. */
    const int alone = threads > 1 ? prompts.count / threads * threads : prompts.count;
    team_run(d->team, threads, alone, decode_alone, &r);
    for (int i = alone; i < prompts.count; i++)
        decode_prompt(&r, i, threads);
    return r.has_failed ? -1 : 0;
}
