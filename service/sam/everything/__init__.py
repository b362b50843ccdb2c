"""Everything mode: masks of all objects of an image, found by a grid of points (docs/explanation/everything.md)."""
