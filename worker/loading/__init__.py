"""From the file to panels in memory."""
