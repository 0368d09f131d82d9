"""Weight formats: blocks of the file, panels in memory, rows dequantised."""
