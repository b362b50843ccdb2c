"""Checkpoint files read without torch: PyTorch archives and safetensors, recognised and compared by keys and shapes."""

from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.reading import CheckpointFile, read_checkpoint
from model_store.checkpoint_files.recognition import recognise

__all__ = ["CheckpointError", "CheckpointFile", "read_checkpoint", "recognise"]
