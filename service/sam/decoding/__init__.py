"""Readers of the image formats, one module for each format that needs more than Pillow's reader."""
