"""Who may do what: keys and where they come from, what each route asks for, and the middleware that asks."""
