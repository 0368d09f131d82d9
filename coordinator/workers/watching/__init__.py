"""Whether processes live, whether their threads move, and the end of those that outlive whom they belong to."""
