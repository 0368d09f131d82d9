"""Several hosts that run a model's layers one after the other: the steps between them, and the pipeline of all."""
