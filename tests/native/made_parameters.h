/* Parameters of a decoder, made up by name, for programs of their own: `tensors`, of which there are `count`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoder.h"

static edgesam_tensor tensors[256];
static int count;

static float noise(void)
{
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 24) * 0.1f - 0.05f;
}

static float *numbers(long size)
{
    float *data = malloc((size_t)size * sizeof *data);
    for (long i = 0; i < size; i++)
        data[i] = noise();
    return data;
}

static void put(const char *prefix, const char *name, long size)
{
    char full[200];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    tensors[count++] = (edgesam_tensor){strdup(full), numbers(size), size};
}

static void put_linear(const char *prefix, const char *name, int in, int out)
{
    char full[200];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    put(full, ".weight", (long)in * out);
    put(full, ".bias", out);
}

static void put_attention(const char *prefix, const char *name, int inner)
{
    char full[200];
    snprintf(full, sizeof full, "%s%s.", prefix, name);
    put_linear(full, "q_proj", 256, inner);
    put_linear(full, "k_proj", 256, inner);
    put_linear(full, "v_proj", 256, inner);
    put_linear(full, "out_proj", inner, 256);
}

static void put_norm(const char *prefix, const char *name, int size)
{
    put_linear(prefix, name, 1, size);
}

static void make_parameters(void)
{
    char prefix[100];
    put("", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 2 * 128);
    put("", "prompt_encoder.not_a_point_embed.weight", 256);
    put("", "prompt_encoder.no_mask_embed.weight", 256);
    for (int i = 0; i < 4; i++) {
        snprintf(prefix, sizeof prefix, "prompt_encoder.point_embeddings.%d.weight", i);
        put("", prefix, 256);
        snprintf(prefix, sizeof prefix, "mask_decoder.output_hypernetworks_mlps.%d.", i);
        put_linear(prefix, "layers.0", 256, 256);
        put_linear(prefix, "layers.1", 256, 256);
        put_linear(prefix, "layers.2", 256, 32);
    }
    put_linear("mask_decoder.iou_prediction_head.", "layers.0", 256, 256);
    put_linear("mask_decoder.iou_prediction_head.", "layers.1", 256, 256);
    put_linear("mask_decoder.iou_prediction_head.", "layers.2", 256, 4);
    put("", "mask_decoder.iou_token.weight", 256);
    put("", "mask_decoder.mask_tokens.weight", 4 * 256);
    for (int i = 0; i < 2; i++) {
        snprintf(prefix, sizeof prefix, "mask_decoder.transformer.layers.%d.", i);
        put_attention(prefix, "self_attn", 256);
        put_attention(prefix, "cross_attn_token_to_image", 128);
        put_attention(prefix, "cross_attn_image_to_token", 128);
        put_linear(prefix, "mlp.lin1", 256, 2048);
        put_linear(prefix, "mlp.lin2", 2048, 256);
        for (int n = 1; n <= 4; n++) {
            char name[8];
            snprintf(name, sizeof name, "norm%d", n);
            put_norm(prefix, name, 256);
        }
    }
    put_attention("mask_decoder.transformer.", "final_attn_token_to_image", 128);
    put_norm("mask_decoder.transformer.", "norm_final_attn", 256);
    put("", "mask_decoder.output_upscaling.0.weight", 256 * 64 * 4);
    put("", "mask_decoder.output_upscaling.0.bias", 64);
    put_norm("mask_decoder.", "output_upscaling.1", 64);
    put("", "mask_decoder.output_upscaling.3.weight", 64 * 32 * 4);
    put("", "mask_decoder.output_upscaling.3.bias", 32);
}
