"""Models by their name on a hub such as Hugging Face's: which files these are, their heads, and fetching them."""
