"""Published answers of models to a few prompts on one image, and their comparison with an installed model."""
