#include "parameters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "matmul.h"
#include "memory.h"

enum { BLOCK_NUMBERS = 1 << 20 };

/* Epsilon of the norm between the upscalings, which is the same in all models. */
static const float UPSCALING_EPSILON = 1e-6f;

typedef struct {
    parameters *parameters;
    const edgesam_tensor *tensors;
    int count;
    float norm_epsilon; /* of the norms in the transformer */
    char *error; /* stays empty as long as nothing fails */
} loader;

/* Returns zeros, owned by the parameters; NULL with an error when there is no memory. */
static float *own(loader *r, size_t numbers)
{
    parameters *p = r->parameters;
    numbers = (numbers + 15) / 16 * 16; /* each array begins at a cache line */
    if (!p->first_block || p->used + numbers > BLOCK_NUMBERS) {
        float **block = (float **)memory_new(BLOCK_NUMBERS);
        if (!block || numbers > BLOCK_NUMBERS - 16) {
            snprintf(r->error, 256, "out of memory");
            free(block);
            return NULL;
        }
        *block = p->first_block;
        p->first_block = (float *)block;
        p->used = 16; /* the link to the next block */
    }
    float *own = p->first_block + p->used;
    p->used += numbers;
    return memset(own, 0, numbers * sizeof(float));
}

static int is_there(const loader *r, const char *name)
{
    for (int i = 0; i < r->count; i++)
        if (!strcmp(r->tensors[i].name, name))
            return 1;
    return 0;
}

/* Returns the parameter `prefix``name`, or NULL with an error. */
static const float *find(loader *r, const char *prefix, const char *name, int64_t size)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    for (int i = 0; i < r->count; i++) {
        if (strcmp(r->tensors[i].name, full))
            continue;
        if (r->tensors[i].size == size)
            return r->tensors[i].data;
        snprintf(r->error, 256, "%s has %lld numbers, not %lld", full, (long long)r->tensors[i].size, (long long)size);
        return NULL;
    }
    snprintf(r->error, 256, "%s is missing", full);
    return NULL;
}

/* Returns scale · the parameter, on request transposed from (rows, columns) to (columns, rows). */
static float *copy(loader *r, const char *prefix, const char *name, int rows, int columns, int transposed, float scale)
{
    const float *from = find(r, prefix, name, (int64_t)rows * columns);
    float *to = from ? own(r, (size_t)rows * columns) : NULL;
    for (int i = 0; to && i < rows; i++)
        for (int j = 0; j < columns; j++)
            to[transposed ? j * rows + i : i * columns + j] = scale * from[i * columns + j];
    return to;
}

static float *vector(loader *r, const char *prefix, const char *name, int size)
{
    return copy(r, prefix, name, 1, size, 0, 1.0f);
}

/* Where a column lies in the file: entry `n` of the bias, and weight `first` + k · `step` for input k. */
typedef struct {
    int n;
    long first, step;
} source;

static source source_linear(int in, int out, int n)
{
    (void)out;
    return (source){n, (long)n * in, 1};
}

/* Columns (channel, head) of a projection that the file stores as (head, channel). */
static source source_heads(int in, int out, int n)
{
    return source_linear(in, out, n % HEADS * D + n / HEADS);
}

/* Columns (dy, dx, channel) of a transposed convolution, whose weight is (in, channels, 2, 2). */
static source source_upscaling(int in, int out, int n)
{
    (void)in;
    int channels = out / 4;
    return (source){n % channels, n % channels * 4 + n / channels, out};
}

/* Columns (channel, dy, dx) of a transposed convolution, in the order of the file. */
static source source_fine(int in, int out, int n)
{
    (void)in;
    return (source){n / 4, n, out};
}

static linear load_columns(loader *r, const char *prefix, const char *name, int in, int out, int biases, float scale,
                           source (*source_of)(int in, int out, int n))
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const float *weight = find(r, full, ".weight", (int64_t)in * out), *bias = find(r, full, ".bias", biases);
    int padded = (out + PANEL - 1) / PANEL * PANEL;
    linear l = {.in = in, .out = out, .weight = own(r, (size_t)in * padded), .bias = own(r, padded)};
    if (!weight || !bias || !l.weight || !l.bias)
        return l;
    for (int n = 0; n < out; n++) {
        source from = source_of(in, out, n);
        l.bias[n] = scale * bias[from.n];
        for (int k = 0; k < in; k++)
            l.weight[(long)(n / PANEL * PANEL) * in + k * PANEL + n % PANEL] =
                scale * weight[from.first + k * from.step];
    }
    return l;
}

static linear load_linear(loader *r, const char *prefix, const char *name, int in, int out)
{
    return load_columns(r, prefix, name, in, out, out, 1.0f, source_linear);
}

/* Projection of the prompt tokens in cross attention, with the scale of attention: 1/4 exactly. */
static linear load_heads(loader *r, const char *prefix, const char *name)
{
    return load_columns(r, prefix, name, C, INNER, INNER, 1.0f / sqrtf(D), source_heads);
}

static norm load_norm(loader *r, const char *prefix, const char *name, int size, float epsilon)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return (norm){vector(r, full, ".weight", size), vector(r, full, ".bias", size), epsilon};
}

static self_attention load_self_attention(loader *r, const char *prefix)
{
    return (self_attention){
        load_linear(r, prefix, "q_proj", C, C),
        load_linear(r, prefix, "k_proj", C, C),
        load_linear(r, prefix, "v_proj", C, C),
        load_linear(r, prefix, "out_proj", C, C),
    };
}

static token_to_image_attention load_token_to_image(loader *r, const char *prefix)
{
    return (token_to_image_attention){
        .query = load_heads(r, prefix, "q_proj"),
        .key = copy(r, prefix, "k_proj.weight", INNER, C, 0, 1.0f),
        .value = copy(r, prefix, "v_proj.weight", INNER, C, 1, 1.0f),
        .value_bias = vector(r, prefix, "v_proj.bias", INNER),
        .out = load_linear(r, prefix, "out_proj", INNER, C),
    };
}

static image_to_token_attention load_image_to_token(loader *r, const char *prefix)
{
    return (image_to_token_attention){
        .key = load_heads(r, prefix, "k_proj"),
        .value = load_linear(r, prefix, "v_proj", C, INNER),
        .query = copy(r, prefix, "q_proj.weight", INNER, C, 0, 1.0f),
        .query_bias = copy(r, prefix, "q_proj.bias", HEADS, D, 1, 1.0f),
        .out = copy(r, prefix, "out_proj.weight", C, INNER, 1, 1.0f),
        .out_bias = copy(r, prefix, "out_proj.bias", 1, C, 0, 1.0f / HEADS),
    };
}

static layer load_layer(loader *r, int number)
{
    char prefix[80], self[120], token_to_image[120], image_to_token[120];
    snprintf(prefix, sizeof prefix, "mask_decoder.transformer.layers.%d.", number);
    snprintf(self, sizeof self, "%sself_attn.", prefix);
    snprintf(token_to_image, sizeof token_to_image, "%scross_attn_token_to_image.", prefix);
    snprintf(image_to_token, sizeof image_to_token, "%scross_attn_image_to_token.", prefix);
    return (layer){
        .self = load_self_attention(r, self),
        .token_to_image = load_token_to_image(r, token_to_image),
        .image_to_token = load_image_to_token(r, image_to_token),
        .mlp1 = load_linear(r, prefix, "mlp.lin1", C, HIDDEN),
        .mlp2 = load_linear(r, prefix, "mlp.lin2", HIDDEN, C),
        .norm1 = load_norm(r, prefix, "norm1", C, r->norm_epsilon),
        .norm2 = load_norm(r, prefix, "norm2", C, r->norm_epsilon),
        .norm3 = load_norm(r, prefix, "norm3", C, r->norm_epsilon),
        .norm4 = load_norm(r, prefix, "norm4", C, r->norm_epsilon),
    };
}

static void load_mlp(loader *r, const char *prefix, linear mlp[3], int out)
{
    mlp[0] = load_linear(r, prefix, "layers.0", C, C);
    mlp[1] = load_linear(r, prefix, "layers.1", C, C);
    mlp[2] = load_linear(r, prefix, "layers.2", C, out);
}

static void load_rows(loader *r, float *to, const char *prefix, const char *name, int rows)
{
    const float *from = find(r, prefix, name, (int64_t)rows * C);
    if (from && to)
        memcpy(to, from, (size_t)rows * C * sizeof(float));
}

void position_code(const float *gaussian, float x, float y, float *code)
{
    const float two_pi = 6.28318531f;
    for (int i = 0; i < C / 2; i++) {
        float angle = two_pi * ((2.0f * x - 1.0f) * gaussian[i] + (2.0f * y - 1.0f) * gaussian[C / 2 + i]);
        code[i] = sinf(angle);
        code[C / 2 + i] = cosf(angle);
    }
}

/* An angle is the sum of a part of x and a part of y. At 0.5 a coordinate adds nothing. */
static void load_positions(loader *r)
{
    parameters *p = r->parameters;
    p->gaussian = copy(r, "prompt_encoder.", "pe_layer.positional_encoding_gaussian_matrix", 2, C / 2, 0, 1.0f);
    p->columns = own(r, GRID * C);
    p->rows = own(r, GRID * C);
    for (int i = 0; i < GRID && !*r->error; i++) {
        position_code(p->gaussian, (i + 0.5f) / GRID, 0.5f, p->columns + i * C);
        position_code(p->gaussian, 0.5f, (i + 0.5f) / GRID, p->rows + i * C);
    }
}

static void load_output_tokens(loader *r)
{
    static const char object_score[] = "mask_decoder.obj_score_token.weight";
    parameters *p = r->parameters;
    p->is_sam2 = is_there(r, object_score);
    p->iou_token = p->is_sam2;
    p->output_count = p->iou_token + 1 + MASKS;
    float *rows = p->output_tokens = own(r, (size_t)p->output_count * C);
    if (!rows)
        return;
    if (p->is_sam2)
        load_rows(r, rows, "", object_score, 1);
    load_rows(r, rows + p->iou_token * C, "mask_decoder.", "iou_token.weight", 1);
    load_rows(r, rows + (p->iou_token + 1) * C, "mask_decoder.", "mask_tokens.weight", MASKS);
}

static void load_parameters(loader *r)
{
    parameters *p = r->parameters;
    const char *encoder = "prompt_encoder.", *decoder = "mask_decoder.",
               *first = "mask_decoder.transformer.layers.0.";
    load_positions(r);
    p->types = own(r, 5 * C);
    load_rows(r, p->types, encoder, "not_a_point_embed.weight", 1);
    for (int i = 0; i < 4 && p->types; i++) {
        char name[40];
        snprintf(name, sizeof name, "point_embeddings.%d.weight", i);
        load_rows(r, p->types + (1 + i) * C, encoder, name, 1);
    }
    load_output_tokens(r);
    p->no_mask = vector(r, encoder, "no_mask_embed.weight", C);
    p->key0 = load_columns(r, first, "cross_attn_token_to_image.k_proj", C, INNER, INNER, 1.0f, source_heads);
    if (p->key0.bias)
        memset(p->key0.bias, 0, INNER * sizeof(float)); /* see token_to_image_attention */
    p->query0 = load_columns(r, first, "cross_attn_image_to_token.q_proj", C, INNER, INNER, 1.0f, source_heads);
    for (int i = 0; i < 2; i++)
        p->layers[i] = load_layer(r, i);
    p->final = load_token_to_image(r, "mask_decoder.transformer.final_attn_token_to_image.");
    p->final_norm = load_norm(r, decoder, "transformer.norm_final_attn", C, r->norm_epsilon);
    p->up1 = load_columns(r, decoder, "output_upscaling.0", C, 4 * COARSE, COARSE, 1.0f, source_upscaling);
    p->up_norm = load_norm(r, decoder, "output_upscaling.1", COARSE, UPSCALING_EPSILON);
    p->up2 = load_columns(r, decoder, "output_upscaling.3", COARSE, 4 * FINE, FINE, 1.0f, source_fine);
    for (int i = 0; i < MASKS; i++) {
        char prefix[80];
        snprintf(prefix, sizeof prefix, "mask_decoder.output_hypernetworks_mlps.%d.", i);
        load_mlp(r, prefix, p->hyper[i], FINE);
    }
    load_mlp(r, "mask_decoder.iou_prediction_head.", p->iou, MASKS);
}

int parameters_load(parameters *p, const edgesam_tensor *tensors, int count, float norm_epsilon, char *error)
{
    *error = '\0';
    *p = (parameters){0};
    loader r = {p, tensors, count, norm_epsilon, error};
    load_parameters(&r);
    return *error ? -1 : 0;
}

void parameters_free(parameters *p)
{
    while (p->first_block) {
        float *block = p->first_block;
        p->first_block = *(float **)block;
        free(block);
    }
}
