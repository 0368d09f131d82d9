"""From a model file to panels in a folder."""
