"""The catalogue: published and installed models, and the table that lists them."""
