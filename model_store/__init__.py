"""Makes and keeps models: the network, its checkpoints, training and export. The service never imports this package."""
