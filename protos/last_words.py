"""What a worker that breaks writes where its coordinator reads it, so that a loss has a cause."""

FAILED_LINE = "numoe: "  # a computing thread ended by an exception of its own; the kernel's signals are faulthandler's
