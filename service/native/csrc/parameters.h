/* The decoder's parameters as the passes read them. */
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
    OUTPUT_TOKENS = 5,
    MASKS = 4,
    COARSE = 64, /* channels behind the first enlargement */
    FINE = 32,   /* channels behind the second one */
    MASK_SIDE = 256,
    MASK_PIXELS = MASK_SIDE * MASK_SIDE,
};

typedef struct {
    int in, out;
    float *weight; /* panels of columns, see matmul.h; the last one filled up with zeros */
    float *bias;   /* as long as the panels */
} linear;

typedef struct {
    float *weight, *bias;
} norm;

typedef struct {
    linear query, key, value, out;
} self_attention;

/* Tokens read the image: softmax((x + pe) Wk · q) x Wv. */
typedef struct {
    linear query; /* columns (channel, head), 1/sqrt(D) included */
    float *key;   /* (INNER, C); its bias adds the same to every score of a softmax and is left out */
    float *value; /* (C, INNER) */
    float *value_bias;
    linear out;
} read_attention;

/* Image tokens read the prompt: softmax(((x + pe) Wq + b) · k) v Wo. */
typedef struct {
    linear key;        /* columns (channel, head), 1/sqrt(D) included */
    linear value;
    float *query;      /* (INNER, C) */
    float *query_bias; /* (channel, head) */
    float *out;        /* (INNER, C) */
    float *out_bias;   /* an eighth of it, since each head adds it once */
} write_attention;

typedef struct {
    self_attention self;
    read_attention read;
    write_attention write;
    linear mlp1, mlp2;
    norm norm1, norm2, norm3, norm4;
} layer;

typedef struct {
    float *gaussian;      /* (2, C / 2) */
    float *types;         /* (5, C): not a point, negative, positive, two box corners at label + 1 */
    float *output_tokens; /* (OUTPUT_TOKENS, C) */
    float *columns;       /* (GRID, C): positional code of a grid column alone, sines before cosines */
    float *rows;          /* (GRID, C): of a grid row alone */
    float *no_mask;       /* (C) */
    linear key0, query0;  /* layer 0's projections of the image, columns (channel, head) */
    layer layers[2];
    read_attention final;
    norm final_norm;
    linear up1; /* C → 4 · COARSE, columns (dy, dx, channel) */
    norm up_norm;
    linear up2; /* COARSE → 4 · FINE, columns (channel, dy, dx) */
    linear hyper[MASKS][3], iou[3];
    float *first_block; /* all memory of the above, as a list of blocks */
    size_t used;        /* numbers of the first one */
} parameters;

/* Copies what the decoder needs of `tensors`; 0, or -1 with the reason in `error` (256 bytes). */
int parameters_read(parameters *, const edgesam_tensor *tensors, int count, char *error);

void parameters_free(parameters *);

/* (C) all sines before all cosines (docs/explanation/model.md, section 3.1); x and y in [0, 1]. */
void position_code(const float *gaussian, float x, float y, float *code);

#endif
