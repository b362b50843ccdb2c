"""Whether a forward pass is traced for an ONNX file: then modules compute the same numbers in a cheaper form."""

import torch


def is_exporting() -> bool:
    """Return whether the exporter traces the current forward pass.

    Training keeps the plain form: its gradients and bfloat16 numbers are those of the published networks.
    """
    return bool(torch.onnx.is_in_onnx_export())
