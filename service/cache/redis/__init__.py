"""The Redis tier and everything else that replicas share through Redis."""
