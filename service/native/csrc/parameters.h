/* The decoder's parameters in the layout of the passes. */
#ifndef EDGESAM_PARAMETERS_H
#define EDGESAM_PARAMETERS_H

#include <stddef.h>

#include "decoder.h"

enum {
    GRID = 64,
    IMAGE_TOKENS = GRID * GRID,
    C = 256,     /* channels of a token */
    INNER = 128, /* channels of cross attention */
    HEADS = 8,
    D = INNER / HEADS,
    HIDDEN = 2048, /* channels of the tokens' feed-forward part */
    MASKS = 4,
    COARSE = 64, /* channels after the first upscaling */
    FINE = 32,   /* channels after the second upscaling */
    MASK_SIDE = 256,
    MASK_PIXELS = MASK_SIDE * MASK_SIDE,
};

typedef struct {
    int in, out;
    float *weight; /* panels of columns, see matmul.h; the last one is padded with zeros */
    float *bias;   /* as long as the panels */
} linear;

typedef struct {
    float *weight, *bias;
    float epsilon; /* added to the variance */
} norm;

typedef struct {
    linear query, key, value, out;
} self_attention;

/* Attention from prompt tokens to image tokens: softmax((x + pe) Wk · q) x Wv. */
typedef struct {
    linear query; /* columns (channel, head), 1/sqrt(D) included */
    float *key;   /* (INNER, C); its bias adds the same number to every score of a softmax and is left out */
    float *value; /* (C, INNER) */
    float *value_bias;
    linear out;
} token_to_image_attention;

/* Attention from image tokens to prompt tokens: softmax(((x + pe) Wq + b) · k) v Wo. */
typedef struct {
    linear key;        /* columns (channel, head), 1/sqrt(D) included */
    linear value;
    float *query;      /* (INNER, C) */
    float *query_bias; /* (channel, head) */
    float *out;        /* (INNER, C) */
    float *out_bias;   /* an eighth of the bias, because each head adds it once */
} image_to_token_attention;

typedef struct {
    self_attention self;
    token_to_image_attention token_to_image;
    image_to_token_attention image_to_token;
    linear mlp1, mlp2;
    norm norm1, norm2, norm3, norm4;
} layer;

typedef struct {
    float *gaussian;      /* (2, C / 2) */
    float *types;         /* (5, C), at label + 1: not a point, negative, positive, the two box corners */
    int is_sam2;          /* one output token more, maps, a sigmoid on the predicted IoU */
    int output_count;     /* output tokens: with SAM 2 the object score, then the IoU, then the masks */
    int iou_token;        /* number of the IoU's among them */
    float *output_tokens; /* (output_count, C) */
    float *columns;       /* (GRID, C): positional code of a grid column alone, sines before cosines */
    float *rows;          /* (GRID, C): of a grid row alone */
    float *no_mask;       /* (C) */
    linear key0, query0;  /* layer 0's projections of the image, columns (channel, head) */
    layer layers[2];
    token_to_image_attention final;
    norm final_norm;
    linear up1; /* C → 4 · COARSE, columns (dy, dx, channel) */
    norm up_norm;
    linear up2; /* COARSE → 4 · FINE, columns (channel, dy, dx) */
    linear hyper[MASKS][3], iou[3];
    float *first_block; /* linked list of memory blocks, which hold all arrays above */
    size_t used;        /* floats used in the first block */
} parameters;

/* Copies the decoder's parameters out of `tensors`. `norm_epsilon` is that of the transformer's norms. Returns 0, or -1
 * with the reason in `error` (256 bytes). */
int parameters_load(parameters *, const edgesam_tensor *tensors, int count, float norm_epsilon, char *error);

void parameters_free(parameters *);

/* Writes the positional code of a point, (C): all sines before all cosines. x and y are in [0, 1].
 * Source: docs/explanation/model.md, section 3.1. */
void position_code(const float *gaussian, float x, float y, float *code);

#endif
