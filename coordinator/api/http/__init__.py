"""The HTTP door: health, metrics, and the page of operators with its stream and its actions."""
