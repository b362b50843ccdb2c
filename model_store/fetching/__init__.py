"""The command `fetch`: download, licence, and the model made of it."""
