"""The disk tier: embeddings as files in a folder, which processes may share."""
