/* A block of image tokens goes through all operations of a pass while it stays in the second cache.
 *
 * Products read their operands in an order that no processor foresees; a block is therefore first brought near by a
 * plain walk from start to end (`bring`), which also adds the position.
 */
#include "image.h"

#include "linear.h"
#include "position.h"

enum {
    BLOCK = GRID, /* image tokens: a row of the grid, 64 KiB */
    CHUNK_BLOCKS = IMAGE_TOKENS / BLOCK / CHUNKS,
    STEP = 16, /* image tokens whose fine pixels, 32 KiB, are made together */
    MAX_J = EDGESAM_MAX_TOKENS * HEADS,
};

/* A block on its way through a pass. */
typedef struct {
    float x[BLOCK * C] __attribute__((aligned(64)));
    float placed[BLOCK * C] __attribute__((aligned(64))); /* x + position */
    float scores[BLOCK * MAX_J] __attribute__((aligned(64)));
} workspace;

static const float no_bias[MAX_J];

/* --- Scores and weights ------------------------------------------------------------------------------------------ */

static void bring(const call *c, int block, const float *from, workspace *w)
{
    for (int token = 0; token < BLOCK; token++, from += C) {
        float *x = w->x + token * C, *placed = w->placed + token * C;
        for (int i = 0; i < C / 2; i += VL) {
            vf sine = load(from + i), cosine = load(from + C / 2 + i);
            store(x + i, sine);
            store(x + C / 2 + i, cosine);
            place(sine, cosine, c->p->columns + token * C, c->p->rows + block * C, i, placed);
        }
    }
}

/* scores (BLOCK, J) = projected · heads (T, INNER), both in columns (channel, head): a vector holds all heads. */
static void score_projected(const call *c, const float *projected, const float *heads, float *scores)
{
    for (int token = 0; token < BLOCK; token++, projected += INNER)
        for (int t = 0; t < c->t; t++) {
            vf even = {0}, odd = {0};
            for (int i = 0; i < INNER; i += 2 * VL) {
                even += load(projected + i) * load(heads + t * INNER + i);
                odd += load(projected + i + VL) * load(heads + t * INNER + i + VL);
            }
            store8(scores + token * c->j + t * HEADS, fold8(even + odd));
        }
}

/* scores (BLOCK, J) = placed · weight (C, J) + bias (J). */
static void score_absorbed(const call *c, const float *placed, const float *weight, const float *bias, float *scores)
{
    multiply(BLOCK, c->j, C, placed, C, 1, weight, c->j, bias, 0, scores, c->j);
}

/* Softmax over the tokens of each head, in place: scores (BLOCK, J), heads side by side in a vector of 8. */
static void weigh_tokens(int t, float *scores)
{
    for (int token = 0; token < BLOCK; token++, scores += t * HEADS) {
        v8 most = load8(scores), total = {0};
        for (int i = 1; i < t; i++)
            most = max_v8(load8(scores + i * HEADS), most);
        for (int i = 0; i < t; i++) {
            v8 weight = exp_v8(load8(scores + i * HEADS) - most);
            store8(scores + i * HEADS, weight);
            total += weight;
        }
        total = 1.0f / total;
        for (int i = 0; i < t; i++)
            store8(scores + i * HEADS, load8(scores + i * HEADS) * total);
    }
}

/* Running softmax down the columns: scores (BLOCK, J) become weights under the new maxima, and what was summed under
 * the old ones is brought to the new. */
static void weigh_image(int j, float *scores, float *maxima, float *totals, float *sums)
{
    /* Two tokens at a time: their columns fill whole vectors, eight columns of one would not. */
    float most[2 * MAX_J], total[2 * MAX_J];
    memcpy(most, maxima, (size_t)j * sizeof(float));
    memcpy(most + j, maxima, (size_t)j * sizeof(float));
    for (int i = 0; i < 2 * j; i += VL) {
        vf m = load(most + i);
        for (int token = 0; token < BLOCK; token += 2)
            m = max_vf(load(scores + token * j + i), m);
        store(most + i, m);
    }
    for (int i = 0; i < j; i += HEADS) {
        v8 m = max_v8(load8(most + i), load8(most + j + i));
        store8(most + i, m);
        store8(most + j + i, m);
    }
    for (int i = 0; i < 2 * j; i += VL) {
        vf m = load(most + i), t = {0};
        for (int token = 0; token < BLOCK; token += 2) {
            vf weight = exp_vf(load(scores + token * j + i) - m);
            store(scores + token * j + i, weight);
            t += weight;
        }
        store(total + i, t);
    }
    for (int i = 0; i < j; i += HEADS) {
        v8 m = load8(most + i), shrink = exp_v8(load8(maxima + i) - m);
        store8(totals + i, load8(totals + i) * shrink + load8(total + i) + load8(total + j + i));
        store8(maxima + i, m);
        for (int h = 0; h < HEADS; h++)
            if (shrink[h] != 1.0f)
                for (int x = 0; x < C; x += VL)
                    store(sums + (long)(i + h) * C + x, load(sums + (long)(i + h) * C + x) * shrink[h]);
    }
}

/* --- Passes 1 to 3 ----------------------------------------------------------------------------------------------- */

/* The prompt tokens read a block: sums (J, C) += weights · x. */
static void read_block(const call *c, int chunk, workspace *w)
{
    scratch *s = c->s;
    float *sums = s->sums + (long)chunk * c->j * C;
    weigh_image(c->j, w->scores, s->maxima + chunk * c->j, s->totals + chunk * c->j, sums);
    multiply(c->j, C, BLOCK, w->scores, 1, c->j, w->x, C, sums, C, sums, C);
}

/* A block reads the prompt: x = LayerNorm(x + weights · written), and placed again. */
static void write_block(const call *c, const layer *l, int block, workspace *w)
{
    weigh_tokens(c->t, w->scores);
    multiply_panels(BLOCK, C, c->j, w->scores, c->j, 1, c->s->written, w->x, C, w->x, C);
    for (int token = 0; token < BLOCK; token++) {
        float *x = w->x + token * C;
        moments m = measure(x, C, 1e-5f);
        for (int i = 0; i < C / 2; i += VL) {
            vf sine = normalised(&l->norm4, m, x, i), cosine = normalised(&l->norm4, m, x, C / 2 + i);
            store(x + i, sine);
            store(x + C / 2 + i, cosine);
            place(sine, cosine, c->p->columns + token * C, c->p->rows + block * C, i, w->placed + token * C);
        }
    }
}

static void read_first(void *context, int chunk)
{
    const call *c = context;
    workspace w;
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++) {
        memcpy(w.x, c->keys + (long)block * BLOCK * C, sizeof w.x);
        score_projected(c, c->keys0 + (long)block * BLOCK * INNER, c->s->read_heads, w.scores);
        read_block(c, chunk, &w);
    }
}

static void exchange_first(void *context, int chunk)
{
    const call *c = context;
    workspace w;
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++) {
        memcpy(w.x, c->keys + (long)block * BLOCK * C, sizeof w.x);
        score_projected(c, c->queries0 + (long)block * BLOCK * INNER, c->s->write_heads, w.scores);
        write_block(c, &c->p->layers[0], block, &w);
        memcpy(c->s->stream + (long)block * BLOCK * C, w.x, sizeof w.x);
        score_absorbed(c, w.placed, c->s->read_weight, no_bias, w.scores);
        read_block(c, chunk, &w);
    }
}

/* Enlarges a block: (BLOCK, C) to coarse pixels (BLOCK, dy, dx, COARSE). */
static void enlarge_once(const call *c, workspace *w, float *coarse)
{
    float *raw = w->placed; /* whose time is over */
    apply(&c->p->up1, BLOCK, w->x, raw);
    for (int pixel = 0; pixel < BLOCK * 4; pixel++, raw += COARSE, coarse += COARSE) {
        moments m = measure(raw, COARSE, 1e-6f);
        for (int i = 0; i < COARSE; i += VL)
            store(coarse + i, gelu(normalised(&c->p->up_norm, m, raw, i)));
    }
}

static void exchange_second(void *context, int chunk)
{
    const call *c = context;
    workspace w;
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++) {
        float *stream = c->s->stream + (long)block * BLOCK * C;
        bring(c, block, stream, &w);
        score_absorbed(c, w.placed, c->s->write_weight, c->s->write_bias, w.scores);
        write_block(c, &c->p->layers[1], block, &w);
        score_absorbed(c, w.placed, c->s->read_weight, no_bias, w.scores);
        read_block(c, chunk, &w);
        enlarge_once(c, &w, stream);
    }
}

/* --- Pass 4 ------------------------------------------------------------------------------------------------------ */

/* Two rows of two pixels of each mask: fine channels (channel, dy, dx) through GELU, weighed by the hypernetworks. */
INLINE void mix(const float *fine, const float *hyper, float *mask_logits)
{
    vf sums[MASKS] = {0};
    for (int i = 0; i < 4 * FINE; i += VL) {
        vf channels = gelu(load(fine + i));
        for (int mask = 0; mask < MASKS; mask++)
            sums[mask] += channels * load(hyper + mask * 4 * FINE + i);
    }
    for (int mask = 0; mask < MASKS; mask++) {
        float *pixels = mask_logits + mask * MASK_PIXELS;
        v4 four = fold4(sums[mask]);
        memcpy(pixels, &four, 2 * sizeof(float));
        memcpy(pixels + MASK_SIDE, (const char *)&four + 2 * sizeof(float), 2 * sizeof(float));
    }
}

/* Fetches the pixels of STEP image tokens ahead of their writing: stores that miss the caches wait one by one. */
static void fetch_pixels(float *mask_logits)
{
    for (int mask = 0; mask < MASKS; mask++)
        for (int y = 0; y < 4; y++)
            for (int x = 0; x < STEP * 4; x += 16)
                __builtin_prefetch(mask_logits + mask * MASK_PIXELS + y * MASK_SIDE + x, 1);
}

/* Pixels above +1 and above -1 in a chunk's rows of each mask. */
static void count_pixels(const call *c, int chunk)
{
    const int pixels = MASK_PIXELS / CHUNKS;
    for (int mask = 0; mask < MASKS; mask++) {
        const float *logits = c->mask_logits + mask * MASK_PIXELS + chunk * pixels;
        int sure = 0, likely = 0;
        for (int i = 0; i < pixels; i++) {
            sure += logits[i] > 1.0f;
            likely += logits[i] > -1.0f;
        }
        c->s->sure[chunk][mask] = sure;
        c->s->likely[chunk][mask] = likely;
    }
}

static void enlarge(void *context, int chunk)
{
    const call *c = context;
    float fine[STEP * 4 * 4 * FINE] __attribute__((aligned(64)));
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++)
        for (int first = 0; first < BLOCK; first += STEP) {
            float *pixels = c->mask_logits + (long)block * 4 * MASK_SIDE + first * 4;
            fetch_pixels(pixels);
            apply(&c->p->up2, STEP * 4, c->s->stream + (long)(block * BLOCK + first) * 4 * COARSE, fine);
            for (int i = 0; i < STEP * 4; i++)
                mix(fine + i * 4 * FINE, c->s->hyper, pixels + i / 4 * 4 + i % 4 / 2 * 2 * MASK_SIDE + i % 2 * 2);
        }
    count_pixels(c, chunk);
}

/* --- Through the team -------------------------------------------------------------------------------------------- */

void image_read_first(const call *c) { team_run(c->team, c->threads, CHUNKS, read_first, (void *)c); }

void image_exchange_first(const call *c) { team_run(c->team, c->threads, CHUNKS, exchange_first, (void *)c); }

void image_exchange_second(const call *c) { team_run(c->team, c->threads, CHUNKS, exchange_second, (void *)c); }

void image_enlarge(const call *c) { team_run(c->team, c->threads, CHUNKS, enlarge, (void *)c); }
