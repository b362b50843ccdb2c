"""The command `edgesam`, which starts the service, runs the model store's commands, makes API keys and is a client."""
