"""Image encoders: RepViT-M1 of EdgeSAM, EfficientNet-Lite2 of edgesam-lite, and their common interface."""
