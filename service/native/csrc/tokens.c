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
        moments m = measure(x, C, 1e-5f);
        for (int i = 0; i < C; i += VL)
            store(x + i, normalised(n, m, x, i));
    }
}

int tokens_embed(const parameters *p, const float *points, const int64_t *labels, int length, float *start)
{
    memcpy(start, p->output_tokens, OUTPUT_TOKENS * C * sizeof(float));
    int t = OUTPUT_TOKENS;
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
static void attend_tokens(const call *c)
{
    const int width = C / HEADS;
    scratch *s = c->s;
    memset(s->attended, 0, (size_t)c->t * C * sizeof(float));
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < c->t; i++) {
            float weights[EDGESAM_MAX_TOKENS];
            const float *q = s->query + i * C + h * width;
            for (int j = 0; j < c->t; j++) {
                const float *k = s->key + j * C + h * width;
                weights[j] = 0.0f;
                for (int x = 0; x < width; x++)
                    weights[j] += q[x] * k[x];
                weights[j] /= sqrtf(width);
            }
            softmax(weights, c->t);
            for (int j = 0; j < c->t; j++)
                for (int x = 0; x < width; x++)
                    s->attended[i * C + h * width + x] += weights[j] * s->value[j * C + h * width + x];
        }
}

void tokens_attend(const call *c, const layer *l, int is_first)
{
    scratch *s = c->s;
    long size = (long)c->t * C;
    const float *placed = s->tokens;
    if (!is_first) {
        memcpy(s->placed, s->tokens, (size_t)size * sizeof(float));
        add(s->placed, s->start, size);
        placed = s->placed;
    }
    apply(&l->self.query, c->t, placed, s->query);
    apply(&l->self.key, c->t, placed, s->key);
    apply(&l->self.value, c->t, s->tokens, s->value);
    attend_tokens(c);
    apply(&l->self.out, c->t, s->attended, s->hidden);
    if (is_first)
        memcpy(s->tokens, s->hidden, (size_t)size * sizeof(float));
    else
        add(s->tokens, s->hidden, size);
    normalise(&l->norm1, c->t, s->tokens);
}

/* tokens + start → placed */
static const float *placed(const call *c)
{
    scratch *s = c->s;
    memcpy(s->placed, s->tokens, (size_t)c->t * C * sizeof(float));
    add(s->placed, s->start, (long)c->t * C);
    return s->placed;
}

/* weight (C, J) for scores of image tokens: each head of each token through the image's projection. */
static void absorb(const call *c, const float *heads, const float *projection, float *weight)
{
    float *rows = c->s->absorbed; /* (J, C) */
    memset(rows, 0, (size_t)c->j * C * sizeof(float));
    for (int h = 0; h < HEADS; h++)
        multiply(c->t, C, D, heads + h, INNER, HEADS, projection + (long)h * D * C, C, rows + h * C, HEADS * C,
                 rows + h * C, HEADS * C);
    for (int x = 0; x < C; x++)
        for (int j = 0; j < c->j; j++)
            weight[(long)x * c->j + j] = rows[(long)j * C + x];
}

static void absorb_query(const call *c, const write_attention *a)
{
    scratch *s = c->s;
    absorb(c, s->write_heads, a->query, s->write_weight);
    memset(s->write_bias, 0, (size_t)c->j * sizeof(float));
    for (int t = 0; t < c->t; t++)
        for (int i = 0; i < INNER; i++)
            s->write_bias[t * HEADS + i % HEADS] += s->write_heads[t * INNER + i] * a->query_bias[i];
}


void tokens_prepare_read(const call *c, const read_attention *a, int is_projected)
{
    scratch *s = c->s;
    apply(&a->query, c->t, placed(c), s->read_heads);
    if (!is_projected)
        absorb(c, s->read_heads, a->key, s->read_weight);
    for (int i = 0; i < CHUNKS * c->j; i++)
        s->maxima[i] = -1e30f;
    memset(s->totals, 0, (size_t)CHUNKS * c->j * sizeof(float));
    memset(s->sums, 0, (size_t)CHUNKS * c->j * C * sizeof(float));
}

void tokens_prepare_write(const call *c, const write_attention *a, int is_projected)
{
    scratch *s = c->s;
    apply(&a->key, c->t, placed(c), s->write_heads);
    apply(&a->value, c->t, s->tokens, s->value);
    if (!is_projected)
        absorb_query(c, a);
    for (int start = 0; start < C; start += PANEL) {
        float *panel = s->written + (long)start * c->j;
        for (int h = 0; h < HEADS; h++)
            multiply(c->t, PANEL, D, s->value + h * D, INNER, 1, a->out + (long)h * D * C + start, C,
                     a->out_bias + start, 0, panel + h * PANEL, HEADS * PANEL);
    }
}

void tokens_finish_read(const call *c, const read_attention *a, const norm *n)
{
    scratch *s = c->s;
    float *joined = s->absorbed; /* (J, C) */
    for (int j = 0; j < c->j; j++) {
        float most = -1e30f, total = 0.0f, share[CHUNKS];
        for (int k = 0; k < CHUNKS; k++)
            most = fmaxf(most, s->maxima[k * c->j + j]);
        for (int k = 0; k < CHUNKS; k++) {
            share[k] = expf(s->maxima[k * c->j + j] - most);
            total += share[k] * s->totals[k * c->j + j];
        }
        for (int x = 0; x < C; x += VL) {
            vf sum = {0};
            for (int k = 0; k < CHUNKS; k++)
                sum += share[k] * load(s->sums + ((long)k * c->j + j) * C + x);
            store(joined + (long)j * C + x, sum / total);
        }
    }
    for (int h = 0; h < HEADS; h++)
        multiply(c->t, D, C, joined + h * C, HEADS * C, 1, a->value + h * D, INNER, a->value_bias + h * D, 0, s->value + h * D, INNER);
    apply(&a->out, c->t, s->value, s->hidden);
    add(s->tokens, s->hidden, (long)c->t * C);
    normalise(n, c->t, s->tokens);
}

void tokens_feed_forward(const call *c, const layer *l)
{
    scratch *s = c->s;
    apply(&l->mlp1, c->t, s->tokens, s->hidden);
    rectify(s->hidden, (long)c->t * HIDDEN);
    apply(&l->mlp2, c->t, s->hidden, s->attended);
    add(s->tokens, s->attended, (long)c->t * C);
    normalise(&l->norm3, c->t, s->tokens);
}

static const float *apply_mlp(const call *c, const linear mlp[3], const float *token)
{
    scratch *s = c->s;
    apply(&mlp[0], 1, token, s->query);
    rectify(s->query, C);
    apply(&mlp[1], 1, s->query, s->key);
    rectify(s->key, C);
    apply(&mlp[2], 1, s->key, s->value);
    return s->value;
}

void tokens_predict(const call *c, float *iou_predictions)
{
    scratch *s = c->s;
    for (int mask = 0; mask < MASKS; mask++) {
        const float *hyper = apply_mlp(c, c->p->hyper[mask], s->tokens + (1 + mask) * C);
        for (int x = 0; x < 4 * FINE; x++)
            s->hyper[mask * 4 * FINE + x] = hyper[x / 4];
    }
    memcpy(iou_predictions, apply_mlp(c, c->p->iou, s->tokens), MASKS * sizeof(float));
}

