"""The errors of the model store's commands that the user can act on."""


class ModelStoreError(Exception):
    """An error that the user can act on; the message is one line that says what to do."""

    exit_code = 1


class UsageError(ModelStoreError):
    """The command does not do what was asked; nothing was started."""

    exit_code = 2
