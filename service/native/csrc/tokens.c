#include "tokens.h"

#include "linear.h"

static void rectify(float *x, long count)
{
    for (long i = 0; i < count; i++)
        x[i] = x[i] > 0.0f ? x[i] : 0.0f;
}

static void softmax(float *x, int count)
{
    float most = x[0], sum = 0.0f;
    for (int i = 1; i < count; i++)
        most = x[i] > most ? x[i] : most;
    for (int i = 0; i < count; i++)
        sum += x[i] = expf(x[i] - most);
    for (int i = 0; i < count; i++)
        x[i] /= sum;
}

static void normalise(const norm *n, int rows, float *x)
{
    for (int row = 0; row < rows; row++, x += C) {
        moments m = measure(x, C, n->epsilon);
        for (int i = 0; i < C; i += VL)
            store(x + i, normalised(n, m, x, i));
    }
}

int tokens_embed(const parameters *p, const float *points, const int64_t *labels, int length, float *start)
{
    memcpy(start, p->output_tokens, (size_t)p->output_count * C * sizeof(float));
    int t = p->output_count;
    for (int i = 0; i < length; i++) {
        if (labels[i] == LABEL_ABSENT)
            continue;
        float *token = start + (long)t++ * C;
        memset(token, 0, C * sizeof(float));
        if (labels[i] >= 0)
            position_code(p->gaussian, (points[2 * i] + 0.5f) / 1024.0f, (points[2 * i + 1] + 0.5f) / 1024.0f, token);
        if (labels[i] != LABEL_IGNORED)
            add(token, p->types + (labels[i] + 1) * C, C);
    }
    return t;
}

/* attended = softmax(q·k / sqrt(32)) v among the tokens, 8 heads of 32 channels */
static void attend_tokens(const decode_context *ctx)
{
    const int width = C / HEADS;
    scratch *s = ctx->s;
    memset(s->attended, 0, (size_t)ctx->t * C * sizeof(float));
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < ctx->t; i++) {
            float weights[EDGESAM_MAX_TOKENS];
            const float *q = s->query + i * C + h * width;
            for (int j = 0; j < ctx->t; j++) {
                const float *k = s->key + j * C + h * width;
                weights[j] = 0.0f;
                for (int x = 0; x < width; x++)
                    weights[j] += q[x] * k[x];
                weights[j] /= sqrtf(width);
            }
            softmax(weights, ctx->t);
            for (int j = 0; j < ctx->t; j++)
                for (int x = 0; x < width; x++)
                    s->attended[i * C + h * width + x] += weights[j] * s->value[j * C + h * width + x];
        }
}

void tokens_attend(const decode_context *ctx, const layer *l, int is_first)
{
    scratch *s = ctx->s;
    long size = (long)ctx->t * C;
    const float *positioned = s->tokens;
    if (!is_first) {
        memcpy(s->positioned, s->tokens, (size_t)size * sizeof(float));
        add(s->positioned, s->start, size);
        positioned = s->positioned;
    }
    apply(&l->self.query, ctx->t, positioned, s->query);
    apply(&l->self.key, ctx->t, positioned, s->key);
    apply(&l->self.value, ctx->t, s->tokens, s->value);
    attend_tokens(ctx);
    apply(&l->self.out, ctx->t, s->attended, s->hidden);
    if (is_first)
        memcpy(s->tokens, s->hidden, (size_t)size * sizeof(float));
    else
        add(s->tokens, s->hidden, size);
    normalise(&l->norm1, ctx->t, s->tokens);
}

/* tokens + start → positioned */
static const float *positioned(const decode_context *ctx)
{
    scratch *s = ctx->s;
    memcpy(s->positioned, s->tokens, (size_t)ctx->t * C * sizeof(float));
    add(s->positioned, s->start, (long)ctx->t * C);
    return s->positioned;
}

/* weight (C, J) for the scores of image tokens: each head of each token times the projection of the image. */
static void absorb(const decode_context *ctx, const float *heads, const float *projection, float *weight)
{
    float *rows = ctx->s->absorbed; /* (J, C) */
    memset(rows, 0, (size_t)ctx->j * C * sizeof(float));
    for (int h = 0; h < HEADS; h++)
        multiply(ctx->t, C, D, heads + h, INNER, HEADS, projection + (long)h * D * C, C, rows + h * C, HEADS * C,
                 rows + h * C, HEADS * C);
    for (int x = 0; x < C; x++)
        for (int j = 0; j < ctx->j; j++)
            weight[(long)x * ctx->j + j] = rows[(long)j * C + x];
}

static void absorb_query(const decode_context *ctx, const image_to_token_attention *a)
{
    scratch *s = ctx->s;
    absorb(ctx, s->token_keys, a->query, s->image_to_token_weight);
    memset(s->image_to_token_bias, 0, (size_t)ctx->j * sizeof(float));
    for (int t = 0; t < ctx->t; t++)
        for (int i = 0; i < INNER; i++)
            s->image_to_token_bias[t * HEADS + i % HEADS] += s->token_keys[t * INNER + i] * a->query_bias[i];
}

void tokens_prepare_token_to_image(const decode_context *ctx, const token_to_image_attention *a, int is_projected)
{
    scratch *s = ctx->s;
    apply(&a->query, ctx->t, positioned(ctx), s->token_queries);
    if (!is_projected)
        absorb(ctx, s->token_queries, a->key, s->token_to_image_weight);
    for (int i = 0; i < CHUNKS * ctx->j; i++)
        s->maxima[i] = -1e30f;
    memset(s->totals, 0, (size_t)CHUNKS * ctx->j * sizeof(float));
    memset(s->sums, 0, (size_t)CHUNKS * ctx->j * C * sizeof(float));
}

void tokens_prepare_image_to_token(const decode_context *ctx, const image_to_token_attention *a, int is_projected)
{
    scratch *s = ctx->s;
    apply(&a->key, ctx->t, positioned(ctx), s->token_keys);
    apply(&a->value, ctx->t, s->tokens, s->value);
    if (!is_projected)
        absorb_query(ctx, a);
    for (int start = 0; start < C; start += PANEL) {
        float *panel = s->token_outputs + (long)start * ctx->j;
        for (int h = 0; h < HEADS; h++)
            multiply(ctx->t, PANEL, D, s->value + h * D, INNER, 1, a->out + (long)h * D * C + start, C,
                     a->out_bias + start, 0, panel + h * PANEL, HEADS * PANEL);
    }
}

void tokens_finish_token_to_image(const decode_context *ctx, const token_to_image_attention *a, const norm *n)
{
    scratch *s = ctx->s;
    float *joined = s->absorbed; /* (J, C) */
    for (int j = 0; j < ctx->j; j++) {
        float most = -1e30f, total = 0.0f, share[CHUNKS];
        for (int k = 0; k < CHUNKS; k++)
            most = fmaxf(most, s->maxima[k * ctx->j + j]);
        for (int k = 0; k < CHUNKS; k++) {
            share[k] = expf(s->maxima[k * ctx->j + j] - most);
            total += share[k] * s->totals[k * ctx->j + j];
        }
        for (int x = 0; x < C; x += VL) {
            vf sum = {0};
            for (int k = 0; k < CHUNKS; k++)
                sum += share[k] * load(s->sums + ((long)k * ctx->j + j) * C + x);
            store(joined + (long)j * C + x, sum / total);
        }
    }
    for (int h = 0; h < HEADS; h++)
        multiply(ctx->t, D, C, joined + h * C, HEADS * C, 1, a->value + h * D, INNER, a->value_bias + h * D, 0,
                 s->value + h * D, INNER);
    apply(&a->out, ctx->t, s->value, s->hidden);
    add(s->tokens, s->hidden, (long)ctx->t * C);
    normalise(n, ctx->t, s->tokens);
}

void tokens_feed_forward(const decode_context *ctx, const layer *l)
{
    scratch *s = ctx->s;
    apply(&l->mlp1, ctx->t, s->tokens, s->hidden);
    rectify(s->hidden, (long)ctx->t * HIDDEN);
    apply(&l->mlp2, ctx->t, s->hidden, s->attended);
    add(s->tokens, s->attended, (long)ctx->t * C);
    normalise(&l->norm3, ctx->t, s->tokens);
}

static const float *apply_mlp(const decode_context *ctx, const linear mlp[3], const float *token)
{
    scratch *s = ctx->s;
    apply(&mlp[0], 1, token, s->query);
    rectify(s->query, C);
    apply(&mlp[1], 1, s->query, s->key);
    rectify(s->key, C);
    apply(&mlp[2], 1, s->key, s->value);
    return s->value;
}

void tokens_predict(decode_context *ctx, float *iou_predictions)
{
    const float *token = ctx->s->tokens + ctx->p->iou_token * C; /* the masks' tokens follow */
    memcpy(iou_predictions, apply_mlp(ctx, ctx->p->iou, token), MASKS * sizeof(float));
    for (int mask = 0; mask < MASKS && ctx->p->is_sam2; mask++)
        iou_predictions[mask] = 1.0f / (1.0f + expf(-iou_predictions[mask]));
    ctx->wanted = 0;
    for (int mask = 0; mask < MASKS; mask++)
        if (ctx->selection.outputs >> mask & 1 && !(iou_predictions[mask] <= ctx->selection.least_iou))
            ctx->outputs[ctx->wanted++] = mask;
}

void tokens_predict_masks(const decode_context *ctx)
{
    scratch *s = ctx->s;
    const float *token = s->tokens + ctx->p->iou_token * C;
    for (int i = 0; i < ctx->wanted; i++) {
        const int mask = ctx->outputs[i];
        const float *hyper = apply_mlp(ctx, ctx->p->hyper[mask], token + (1 + mask) * C);
        for (int x = 0; x < 4 * FINE; x++)
            s->hyper[i * 4 * FINE + x] = hyper[x / 4];
    }
}
