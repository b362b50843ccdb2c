/* The passes over the image tokens. A block of tokens goes through all operations of a pass while it stays in the
 * second-level cache.
 *
 * Products read their operands in an order that no processor can prefetch. Therefore a block is first read from start
 * to end (`load_block`), which also adds the positional code.
 */
#include "image.h"

#include "linear.h"
#include "packed.h"
#include "position.h"

enum {
    BLOCK = GRID, /* image tokens: a row of the grid, 64 KiB */
    CHUNK_BLOCKS = IMAGE_TOKENS / BLOCK / CHUNKS,
    STEP = 16, /* image tokens that are upscaled together: their fine pixels take 32 KiB */
    MAX_J = EDGESAM_MAX_TOKENS * HEADS,
};

/* The buffers of one block in a pass. */
typedef struct {
    float x[BLOCK * C] __attribute__((aligned(64)));
    float positioned[BLOCK * C] __attribute__((aligned(64))); /* x + positional code */
    float scores[BLOCK * MAX_J] __attribute__((aligned(64)));
} workspace;

static const float no_bias[MAX_J];

/* --- Scores and weights ------------------------------------------------------------------------------------------ */

static void load_block(const decode_context *ctx, int block, const float *from, workspace *w)
{
    for (int token = 0; token < BLOCK; token++, from += C) {
        float *x = w->x + token * C, *positioned = w->positioned + token * C;
        for (int i = 0; i < C / 2; i += VL) {
            vf sine = load(from + i), cosine = load(from + C / 2 + i);
            store(x + i, sine);
            store(x + C / 2 + i, cosine);
            add_position(sine, cosine, ctx->p->columns + token * C, ctx->p->rows + block * C, i, positioned);
        }
    }
}

/* x (BLOCK, C): keys of the image state. Tokens get the "no mask" embedding. */
static void load_keys(const decode_context *ctx, int block, float *x)
{
    const long first = (long)block * BLOCK * C;
    if (!ctx->has_tokens) { /* float32, of a mask prompt */
        memcpy(x, ctx->keys.float32 + first, BLOCK * C * sizeof(float));
        return;
    }
    for (int token = 0; token < BLOCK; token++)
        for (int i = 0; i < C; i += VL)
            store(x + token * C + i, load_numbers(ctx->keys, first + token * C + i) + load(ctx->p->no_mask + i));
}

/* Rows of a block (BLOCK, INNER), in place or unpacked into `buffer`. */
static const float *load_rows(edgesam_rows array, int block, float *buffer)
{
    const edgesam_rows rows = rows_from(array, (long)block * BLOCK);
    if (!rows.packed)
        return rows.float32;
    unpack_rows(BLOCK, rows.packed, buffer);
    return buffer;
}

/* scores (BLOCK, J) = projected · heads (T, INNER). Both have columns (channel, head), so that a vector holds all
 * heads. */
static void score_projected(const decode_context *ctx, const float *projected, const float *heads, float *scores)
{
    for (int token = 0; token < BLOCK; token++, projected += INNER)
        for (int t = 0; t < ctx->t; t++) {
            vf even = {0}, odd = {0};
            for (int i = 0; i < INNER; i += 2 * VL) {
                even += load(projected + i) * load(heads + t * INNER + i);
                odd += load(projected + i + VL) * load(heads + t * INNER + i + VL);
            }
            store_eight_sums(scores + token * ctx->j + t * HEADS, even, odd);
        }
}

/* scores (BLOCK, J) = positioned · weight (C, J) + bias (J). */
static void score_absorbed(const decode_context *ctx, const float *positioned, const float *weight, const float *bias,
                           float *scores)
{
    multiply(BLOCK, ctx->j, C, positioned, C, 1, weight, ctx->j, bias, 0, scores, ctx->j);
}

/* Softmax over the tokens of each head, in place: scores (BLOCK, J), with as many heads as possible in a vector. */
static void softmax_over_tokens(int t, float *scores)
{
    for (int at = 0; at < BLOCK * t * HEADS; at += t * HEADS)
        for (int h = 0; h < HEADS; h += VH) {
            float *heads = scores + at + h;
            vh most = load_vh(heads), total = {0};
            for (int i = 1; i < t; i++)
                most = max_vh(load_vh(heads + i * HEADS), most);
            for (int i = 0; i < t; i++) {
                vh weight = exp_vh(load_vh(heads + i * HEADS) - most);
                store_vh(heads + i * HEADS, weight);
                total += weight;
            }
            total = 1.0f / total;
            for (int i = 0; i < t; i++)
                store_vh(heads + i * HEADS, load_vh(heads + i * HEADS) * total);
        }
}

/* Running softmax down the columns: scores (BLOCK, J) become weights under the new maxima. Sums under the old maxima
 * are scaled to the new ones. */
static void softmax_over_image(int j, float *scores, float *maxima, float *totals, float *sums)
{
    /* Two tokens at a time, because the eight columns of one would not fill a long vector. */
    float most[2 * MAX_J], total[2 * MAX_J];
    memcpy(most, maxima, (size_t)j * sizeof(float));
    memcpy(most + j, maxima, (size_t)j * sizeof(float));
    for (int i = 0; i < 2 * j; i += VL) {
        vf m = load(most + i);
        for (int token = 0; token < BLOCK; token += 2)
            m = max_vf(load(scores + token * j + i), m);
        store(most + i, m);
    }
    for (int i = 0; i < j; i += VH) {
        vh m = max_vh(load_vh(most + i), load_vh(most + j + i));
        store_vh(most + i, m);
        store_vh(most + j + i, m);
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
    for (int i = 0; i < j; i += VH) {
        vh m = load_vh(most + i), shrink = exp_vh(load_vh(maxima + i) - m);
        store_vh(totals + i, load_vh(totals + i) * shrink + load_vh(total + i) + load_vh(total + j + i));
        store_vh(maxima + i, m);
        for (int h = 0; h < VH; h++)
            if (shrink[h] != 1.0f)
                for (int x = 0; x < C; x += VL)
                    store(sums + (long)(i + h) * C + x, load(sums + (long)(i + h) * C + x) * shrink[h]);
    }
}

/* --- Passes 1 to 3 ----------------------------------------------------------------------------------------------- */

/* token_to_image of a block: sums (J, C) += weights · x. */
static void token_to_image_block(const decode_context *ctx, int chunk, workspace *w)
{
    scratch *s = ctx->s;
    float *sums = s->sums + (long)chunk * ctx->j * C;
    softmax_over_image(ctx->j, w->scores, s->maxima + chunk * ctx->j, s->totals + chunk * ctx->j, sums);
    multiply(ctx->j, C, BLOCK, w->scores, 1, ctx->j, w->x, C, sums, C, sums, C);
}

/* image_to_token of a block: x = LayerNorm(x + weights · token_outputs), and positioned = x + positional code. */
static void image_to_token_block(const decode_context *ctx, const layer *l, int block, workspace *w)
{
    softmax_over_tokens(ctx->t, w->scores);
    multiply_panels(BLOCK, C, ctx->j, w->scores, ctx->j, 1, ctx->s->token_outputs, w->x, C, w->x, C);
    for (int token = 0; token < BLOCK; token++) {
        float *x = w->x + token * C;
        moments m = measure(x, C, l->norm4.epsilon);
        for (int i = 0; i < C / 2; i += VL) {
            vf sine = normalised(&l->norm4, m, x, i), cosine = normalised(&l->norm4, m, x, C / 2 + i);
            store(x + i, sine);
            store(x + C / 2 + i, cosine);
            add_position(sine, cosine, ctx->p->columns + token * C, ctx->p->rows + block * C, i,
                         w->positioned + token * C);
        }
    }
}

static void pass_1_chunk(void *context, int chunk)
{
    const decode_context *ctx = context;
    workspace w;
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++) {
        load_keys(ctx, block, w.x);
        score_projected(ctx, load_rows(ctx->keys0, block, w.positioned), ctx->s->token_queries, w.scores);
        token_to_image_block(ctx, chunk, &w);
    }
}

static void pass_2_chunk(void *context, int chunk)
{
    const decode_context *ctx = context;
    workspace w;
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++) {
        load_keys(ctx, block, w.x);
        score_projected(ctx, load_rows(ctx->queries0, block, w.positioned), ctx->s->token_keys, w.scores);
        image_to_token_block(ctx, &ctx->p->layers[0], block, &w);
        memcpy(ctx->s->stream + (long)block * BLOCK * C, w.x, sizeof w.x);
        score_absorbed(ctx, w.positioned, ctx->s->token_to_image_weight, no_bias, w.scores);
        token_to_image_block(ctx, chunk, &w);
    }
}

/* The first upscaling of some tokens of a block: (tokens, C) to coarse pixels (tokens, dy, dx, COARSE). SAM 2 adds s1 before the
 * norm. */
static void upscale_once(const decode_context *ctx, int block, int tokens, workspace *w, float *coarse)
{
    float *raw = w->positioned; /* not needed any more */
    apply(&ctx->p->up1, tokens, w->x, raw);
    if (ctx->p->is_sam2)
        add_numbers(raw, ctx->maps.s1, (long)block * BLOCK * 4 * COARSE, (long)tokens * 4 * COARSE);
    for (int pixel = 0; pixel < tokens * 4; pixel++, raw += COARSE, coarse += COARSE) {
        moments m = measure(raw, COARSE, ctx->p->up_norm.epsilon);
        for (int i = 0; i < COARSE; i += VL)
            store(coarse + i, gelu(normalised(&ctx->p->up_norm, m, raw, i)));
    }
}

/* Whether no predicted IoU decides about the upscaling, so that a block is upscaled while it is in the cache. */
static int upscales_at_once(const decode_context *ctx)
{
    return isnan(ctx->selection.least_iou);
}

/* Image tokens of a block that are upscaled: those that show the image, in whole steps. The rest is padding. */
static int tokens_shown(const decode_context *ctx, int block)
{
    if (upscales_at_once(ctx))
        return BLOCK;
    return block < ctx->selection.rows ? (ctx->selection.columns + STEP - 1) / STEP * STEP : 0;
}

/* The final token_to_image of a block, for the tokens that it computes now. */
static void attend_at_last(const decode_context *ctx, int chunk, workspace *w)
{
    score_absorbed(ctx->final, w->positioned, ctx->final->s->token_to_image_weight, no_bias, w->scores);
    token_to_image_block(ctx->final, chunk, w);
}

static void pass_3_chunk(void *context, int chunk)
{
    const decode_context *ctx = context;
    workspace w;
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++) {
        float *stream = ctx->s->stream + (long)block * BLOCK * C;
        load_block(ctx, block, stream, &w);
        score_absorbed(ctx, w.positioned, ctx->s->image_to_token_weight, ctx->s->image_to_token_bias, w.scores);
        image_to_token_block(ctx, &ctx->p->layers[1], block, &w);
        attend_at_last(ctx, chunk, &w);
        if (upscales_at_once(ctx))
            upscale_once(ctx, block, BLOCK, &w, stream);
        else
            memcpy(stream, w.x, sizeof w.x);
    }
}

static void upscale_chunk(void *context, int chunk)
{
    const decode_context *ctx = context;
    workspace w;
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++) {
        float *stream = ctx->s->stream + (long)block * BLOCK * C;
        load_block(ctx, block, stream, &w);
        attend_at_last(ctx, chunk, &w);
        upscale_once(ctx, block, tokens_shown(ctx, block), &w, stream);
    }
}

/* --- Pass 4 ------------------------------------------------------------------------------------------------------ */

/* Two rows of two pixels of each wanted mask: GELU of the fine channels (channel, dy, dx), times the hypernetworks.
 * `wanted` has to be a constant, so that the sums stay in registers. */
INLINE void apply_hypernetworks(const decode_context *ctx, int wanted, const float *fine, float *mask_logits)
{
    vf sums[MASKS] = {0};
    for (int i = 0; i < 4 * FINE; i += VL) {
        vf channels = gelu(load(fine + i));
        for (int mask = 0; mask < wanted; mask++)
            sums[mask] += channels * load(ctx->s->hyper + mask * 4 * FINE + i);
    }
    for (int mask = 0; mask < wanted; mask++) {
        float *pixels = mask_logits + ctx->outputs[mask] * MASK_PIXELS;
        v4 four = fold4(sums[mask]);
        memcpy(pixels, &four, 2 * sizeof(float));
        memcpy(pixels + MASK_SIDE, (const char *)&four + 2 * sizeof(float), 2 * sizeof(float));
    }
}

/* The pixels of STEP image tokens in each wanted mask. */
INLINE void write_pixels(const decode_context *ctx, int wanted, const float *fine, float *mask_logits)
{
    for (int i = 0; i < STEP * 4; i++)
        apply_hypernetworks(ctx, wanted, fine + i * 4 * FINE,
                            mask_logits + i / 4 * 4 + i % 4 / 2 * 2 * MASK_SIDE + i % 2 * 2);
}

/* Prefetches the pixels of STEP image tokens, because stores that miss the caches wait one by one. */
static void prefetch_pixels(const decode_context *ctx, float *mask_logits)
{
    for (int mask = 0; mask < ctx->wanted; mask++)
        for (int y = 0; y < 4; y++)
            for (int x = 0; x < STEP * 4; x += 16)
                __builtin_prefetch(mask_logits + ctx->outputs[mask] * MASK_PIXELS + y * MASK_SIDE + x, 1);
}

/* Counts the pixels above +offset and above -offset in a chunk's rows of a mask. */
INLINE void count_pixels(const decode_context *ctx, int chunk, int mask, float offset, int *sure, int *likely)
{
    const int pixels = MASK_PIXELS / CHUNKS;
    const float *logits = ctx->mask_logits + mask * MASK_PIXELS + chunk * pixels;
    int above = 0, almost = 0;
    for (int i = 0; i < pixels; i++) {
        above += logits[i] > offset;
        almost += logits[i] > -offset;
    }
    *sure = above;
    *likely = almost;
}

/* Counts for the stability scores. SAM 2's narrow one is that of output 0 alone, at NARROW_OFFSET of
 * service/sam/masks.py. */
static void count_chunk(const decode_context *ctx, int chunk)
{
    scratch *s = ctx->s;
    for (int i = 0; i < ctx->wanted; i++) {
        const int mask = ctx->outputs[i];
        count_pixels(ctx, chunk, mask, 1.0f, &s->sure[chunk][mask], &s->likely[chunk][mask]);
    }
    if (ctx->p->is_sam2 && ctx->outputs[0] == 0)
        count_pixels(ctx, chunk, 0, 0.05f, &s->narrow_sure[chunk], &s->narrow_likely[chunk]);
}

/* Writes the logits of padding that is not upscaled. */
static void fill_padding(const decode_context *ctx, int chunk)
{
    for (int i = 0; i < ctx->wanted; i++)
        for (int row = chunk * CHUNK_BLOCKS * 4; row < (chunk + 1) * CHUNK_BLOCKS * 4; row++) {
            float *pixels = ctx->mask_logits + ctx->outputs[i] * MASK_PIXELS + row * MASK_SIDE;
            for (int x = tokens_shown(ctx, row / 4) * 4; x < MASK_SIDE; x++)
                pixels[x] = EDGESAM_PADDING_LOGIT;
        }
}

static void pass_4_chunk(void *context, int chunk)
{
    const decode_context *ctx = context;
    float fine[STEP * 4 * 4 * FINE] __attribute__((aligned(64)));
    fill_padding(ctx, chunk);
    for (int block = chunk * CHUNK_BLOCKS; block < (chunk + 1) * CHUNK_BLOCKS; block++)
        for (int first = 0; first < tokens_shown(ctx, block); first += STEP) {
            float *pixels = ctx->mask_logits + (long)block * 4 * MASK_SIDE + first * 4;
            prefetch_pixels(ctx, pixels);
            const long coarse = (long)(block * BLOCK + first) * 4;
            apply(&ctx->p->up2, STEP * 4, ctx->s->stream + coarse * COARSE, fine);
            if (ctx->p->is_sam2)
                add_numbers(fine, ctx->maps.s0, coarse * 4 * FINE, STEP * 4 * 4 * FINE);
            switch (ctx->wanted) {
                case 1: write_pixels(ctx, 1, fine, pixels); break;
                case 2: write_pixels(ctx, 2, fine, pixels); break;
                case 3: write_pixels(ctx, 3, fine, pixels); break;
                default: write_pixels(ctx, MASKS, fine, pixels);
            }
        }
    count_chunk(ctx, chunk);
}

/* --- On the thread pool ------------------------------------------------------------------------------------------ */

static void run_pass(const decode_context *ctx, void (*pass_chunk)(void *, int))
{
    thread_pool_run(ctx->pool, ctx->threads, CHUNKS, pass_chunk, (void *)ctx);
}

void image_pass_1(const decode_context *ctx) { run_pass(ctx, pass_1_chunk); }

void image_pass_2(const decode_context *ctx) { run_pass(ctx, pass_2_chunk); }

void image_pass_3(const decode_context *ctx) { run_pass(ctx, pass_3_chunk); }

void image_upscale(const decode_context *ctx) { run_pass(ctx, upscale_chunk); }

void image_pass_4(const decode_context *ctx) { run_pass(ctx, pass_4_chunk); }
