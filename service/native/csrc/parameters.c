#include "parameters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "matmul.h"
#include "memory.h"

enum { BLOCK_NUMBERS = 1 << 20 };

typedef struct {
    parameters *parameters;
    const edgesam_tensor *tensors;
    int count;
    char *error; /* stays empty as long as all is well */
} reader;

/* Zeros, owned by the parameters; NULL with an error when there is no memory. */
static float *own(reader *r, size_t numbers)
{
    parameters *p = r->parameters;
    numbers = (numbers + 15) / 16 * 16; /* each begins with a cache line */
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

/* The parameter `prefix``name`, or NULL with an error. */
static const float *find(reader *r, const char *prefix, const char *name, int64_t size)
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

/* scale · the parameter, transposed from (rows, columns) to (columns, rows) if asked. */
static float *copy(reader *r, const char *prefix, const char *name, int rows, int columns, int transposed, float scale)
{
    const float *from = find(r, prefix, name, (int64_t)rows * columns);
    float *to = from ? own(r, (size_t)rows * columns) : NULL;
    for (int i = 0; to && i < rows; i++)
        for (int j = 0; j < columns; j++)
            to[transposed ? j * rows + i : i * columns + j] = scale * from[i * columns + j];
    return to;
}

static float *vector(reader *r, const char *prefix, const char *name, int size)
{
    return copy(r, prefix, name, 1, size, 0, 1.0f);
}

/* Where column n of ours lies in the file: output `n` of the bias, weight `first` + k · `step` of input k. */
typedef struct {
    int n;
    long first, step;
} place;

static place place_linear(int in, int out, int n)
{
    (void)out;
    return (place){n, (long)n * in, 1};
}

/* Columns (channel, head) of a projection whose file has (head, channel). */
static place place_heads(int in, int out, int n)
{
    return place_linear(in, out, n % HEADS * D + n / HEADS);
}

/* A transposed convolution's weight is (in, channels, 2, 2): columns (dy, dx, channel), */
static place place_upscaling(int in, int out, int n)
{
    (void)in;
    int channels = out / 4;
    return (place){n % channels, n % channels * 4 + n / channels, out};
}

/* or (channel, dy, dx), as it is. */
static place place_fine(int in, int out, int n)
{
    (void)in;
    return (place){n / 4, n, out};
}

static linear read_columns(reader *r, const char *prefix, const char *name, int in, int out, int biases, float scale,
                           place (*place_of)(int in, int out, int n))
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const float *weight = find(r, full, ".weight", (int64_t)in * out), *bias = find(r, full, ".bias", biases);
    int padded = (out + PANEL - 1) / PANEL * PANEL;
    linear l = {.in = in, .out = out, .weight = own(r, (size_t)in * padded), .bias = own(r, padded)};
    if (!weight || !bias || !l.weight || !l.bias)
        return l;
    for (int n = 0; n < out; n++) {
        place from = place_of(in, out, n);
        l.bias[n] = scale * bias[from.n];
        for (int k = 0; k < in; k++)
            l.weight[(long)(n / PANEL * PANEL) * in + k * PANEL + n % PANEL] = scale * weight[from.first + k * from.step];
    }
    return l;
}

static linear read_linear(reader *r, const char *prefix, const char *name, int in, int out)
{
    return read_columns(r, prefix, name, in, out, out, 1.0f, place_linear);
}

/* The tokens' side of cross attention, with attention's scale: 1/4 exactly. */
static linear read_heads(reader *r, const char *prefix, const char *name)
{
    return read_columns(r, prefix, name, C, INNER, INNER, 1.0f / sqrtf(D), place_heads);
}

static norm read_norm(reader *r, const char *prefix, const char *name, int size)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return (norm){vector(r, full, ".weight", size), vector(r, full, ".bias", size)};
}

static self_attention read_self(reader *r, const char *prefix)
{
    return (self_attention){
        read_linear(r, prefix, "q_proj", C, C),
        read_linear(r, prefix, "k_proj", C, C),
        read_linear(r, prefix, "v_proj", C, C),
        read_linear(r, prefix, "out_proj", C, C),
    };
}

static read_attention read_read(reader *r, const char *prefix)
{
    return (read_attention){
        .query = read_heads(r, prefix, "q_proj"),
        .key = copy(r, prefix, "k_proj.weight", INNER, C, 0, 1.0f),
        .value = copy(r, prefix, "v_proj.weight", INNER, C, 1, 1.0f),
        .value_bias = vector(r, prefix, "v_proj.bias", INNER),
        .out = read_linear(r, prefix, "out_proj", INNER, C),
    };
}

static write_attention read_write(reader *r, const char *prefix)
{
    return (write_attention){
        .key = read_heads(r, prefix, "k_proj"),
        .value = read_linear(r, prefix, "v_proj", C, INNER),
        .query = copy(r, prefix, "q_proj.weight", INNER, C, 0, 1.0f),
        .query_bias = copy(r, prefix, "q_proj.bias", HEADS, D, 1, 1.0f),
        .out = copy(r, prefix, "out_proj.weight", C, INNER, 1, 1.0f),
        .out_bias = copy(r, prefix, "out_proj.bias", 1, C, 0, 1.0f / HEADS),
    };
}

static layer read_layer(reader *r, int number)
{
    char prefix[80], self[120], read[120], write[120];
    snprintf(prefix, sizeof prefix, "mask_decoder.transformer.layers.%d.", number);
    snprintf(self, sizeof self, "%sself_attn.", prefix);
    snprintf(read, sizeof read, "%scross_attn_token_to_image.", prefix);
    snprintf(write, sizeof write, "%scross_attn_image_to_token.", prefix);
    return (layer){
        .self = read_self(r, self),
        .read = read_read(r, read),
        .write = read_write(r, write),
        .mlp1 = read_linear(r, prefix, "mlp.lin1", C, HIDDEN),
        .mlp2 = read_linear(r, prefix, "mlp.lin2", HIDDEN, C),
        .norm1 = read_norm(r, prefix, "norm1", C),
        .norm2 = read_norm(r, prefix, "norm2", C),
        .norm3 = read_norm(r, prefix, "norm3", C),
        .norm4 = read_norm(r, prefix, "norm4", C),
    };
}

static void read_mlp(reader *r, const char *prefix, linear mlp[3], int out)
{
    mlp[0] = read_linear(r, prefix, "layers.0", C, C);
    mlp[1] = read_linear(r, prefix, "layers.1", C, C);
    mlp[2] = read_linear(r, prefix, "layers.2", C, out);
}

static void read_rows(reader *r, float *to, const char *prefix, const char *name, int rows)
{
    const float *from = find(r, prefix, name, (int64_t)rows * C);
    if (from && to)
        memcpy(to, from, (size_t)rows * C * sizeof(float));
}

void position_code(const float *gaussian, float x, float y, float *code)
{
    const float turn = 6.28318531f;
    for (int i = 0; i < C / 2; i++) {
        float angle = turn * ((2.0f * x - 1.0f) * gaussian[i] + (2.0f * y - 1.0f) * gaussian[C / 2 + i]);
        code[i] = sinf(angle);
        code[C / 2 + i] = cosf(angle);
    }
}

/* An angle is a sum of one part of x and one of y: at 0.5 a coordinate adds nothing. */
static void read_positions(reader *r)
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

static void read_parameters(reader *r)
{
    parameters *p = r->parameters;
    const char *encoder = "prompt_encoder.", *decoder = "mask_decoder.",
               *first = "mask_decoder.transformer.layers.0.";
    read_positions(r);
    p->types = own(r, 5 * C);
    read_rows(r, p->types, encoder, "not_a_point_embed.weight", 1);
    for (int i = 0; i < 4 && p->types; i++) {
        char name[40];
        snprintf(name, sizeof name, "point_embeddings.%d.weight", i);
        read_rows(r, p->types + (1 + i) * C, encoder, name, 1);
    }
    p->output_tokens = own(r, OUTPUT_TOKENS * C);
    read_rows(r, p->output_tokens, decoder, "iou_token.weight", 1);
    read_rows(r, p->output_tokens ? p->output_tokens + C : NULL, decoder, "mask_tokens.weight", MASKS);
    p->no_mask = vector(r, encoder, "no_mask_embed.weight", C);
    p->key0 = read_columns(r, first, "cross_attn_token_to_image.k_proj", C, INNER, INNER, 1.0f, place_heads);
    if (p->key0.bias)
        memset(p->key0.bias, 0, INNER * sizeof(float)); /* see read_attention */
    p->query0 = read_columns(r, first, "cross_attn_image_to_token.q_proj", C, INNER, INNER, 1.0f, place_heads);
    for (int i = 0; i < 2; i++)
        p->layers[i] = read_layer(r, i);
    p->final = read_read(r, "mask_decoder.transformer.final_attn_token_to_image.");
    p->final_norm = read_norm(r, decoder, "transformer.norm_final_attn", C);
    p->up1 = read_columns(r, decoder, "output_upscaling.0", C, 4 * COARSE, COARSE, 1.0f, place_upscaling);
    p->up_norm = read_norm(r, decoder, "output_upscaling.1", COARSE);
    p->up2 = read_columns(r, decoder, "output_upscaling.3", COARSE, 4 * FINE, FINE, 1.0f, place_fine);
    for (int i = 0; i < MASKS; i++) {
        char prefix[80];
        snprintf(prefix, sizeof prefix, "mask_decoder.output_hypernetworks_mlps.%d.", i);
        read_mlp(r, prefix, p->hyper[i], FINE);
    }
    read_mlp(r, "mask_decoder.iou_prediction_head.", p->iou, MASKS);
}

int parameters_read(parameters *p, const edgesam_tensor *tensors, int count, char *error)
{
    *error = '\0';
    *p = (parameters){0};
    reader r = {p, tensors, count, error};
    read_parameters(&r);
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
