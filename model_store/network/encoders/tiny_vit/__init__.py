"""TinyViT, the image encoder of MobileSAM and TinySAM."""
