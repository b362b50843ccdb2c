"""EfficientViT, the image encoders of EfficientViT-SAM."""
