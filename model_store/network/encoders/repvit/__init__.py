"""RepViT, the image encoders of EdgeSAM, EdgeTAM and RepViT-SAM."""
